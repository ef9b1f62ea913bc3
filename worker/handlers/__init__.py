"""The handlers that come with the worker. Settings come in as values; the worker's app reads the environment."""
