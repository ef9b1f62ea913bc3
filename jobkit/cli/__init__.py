"""The `selfheal` command."""

import jobkit.forks  # noqa: F401 - before anything imports gRPC
