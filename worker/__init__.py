"""The worker: takes tokens, claims jobs, runs their handlers and settles what became of them."""

import jobkit.forks  # noqa: F401 - before anything imports gRPC
