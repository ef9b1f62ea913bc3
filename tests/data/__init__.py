"""What earlier releases wrote, kept so that later ones are tried on it. `python -m tests.data.record` adds one."""
