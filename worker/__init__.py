"""The worker: takes tokens, claims jobs, runs their handlers and settles what became of them."""
