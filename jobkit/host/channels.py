"""Channels of the signals between processes. Losing one costs time, never a job: a poll finds out."""

from __future__ import annotations

from uuid import UUID

# jobapi -> workers: somebody waits for these jobs.
WATCHES = "watches"
# workers, jobapi -> jobapi: these watched jobs have ended.
ENDED = "ended"
# jobapi -> workers: somebody asked to cancel these running jobs.
CANCELS = "cancels"
# jobapi, control plane -> workers: there is a new job type, or an operator did something to one: see the catalog.
TYPES = "types"
# control plane -> workers: breaker policies changed; how, is in the database.
POLICIES = "policies"
# anybody -> control planes: something that is pushed to workers has changed; what, is in the database.
REVISIONS = "revisions"
# control planes -> control planes: there is a command to a worker, or an answer to one; which, is in the database.
COMMANDS = "commands"
NEWS = UUID(int=0)
