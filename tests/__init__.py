import jobkit.forks  # noqa: F401 - fault tests start servers while they talk to others
