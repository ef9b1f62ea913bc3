"""Breakers and signals on Redis: hot shared state that a wipe costs nothing but time."""
