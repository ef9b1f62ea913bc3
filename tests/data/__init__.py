"""What earlier releases wrote, kept so that later ones are tried on it. `python -m tests.data.record` adds one.

<version>/          rows and messages, see `record`
attempt_log.json    entries of the attempt log from before they told durations and ignored attempts, and a row of them
"""
