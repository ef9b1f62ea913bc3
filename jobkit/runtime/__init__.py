"""What keeps a process running: settings, lifecycle, batching, logging, telemetry."""
