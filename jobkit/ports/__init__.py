"""The ports: what the product needs from the world. Each has an embedded and a real adapter, which pass the same
contract tests. Every method may raise `errors.Unavailable` where its world is away, and nothing of a driver.
"""

from jobkit.ports.breakers import BreakerStore, Ledger
from jobkit.ports.dispatch import Delivery, Dispatch, Dispatcher, Lane, Undecodable
from jobkit.ports.jobs import Accepted, Held, Intake, JobReader, Lease, Miss, Settlement, Steering, WorkStore
from jobkit.ports.presence import Presence, Sessions, TypeCatalog, TypeInfo
from jobkit.ports.quarantine import FailureGroup, GroupToken, Quarantine, Redrives
from jobkit.ports.recovery import Ages, PurgeStep, Recovery, Retention
from jobkit.ports.signals import Signals

__all__ = [
    "Accepted",
    "Ages",
    "BreakerStore",
    "Delivery",
    "Dispatch",
    "Dispatcher",
    "FailureGroup",
    "GroupToken",
    "Held",
    "Intake",
    "JobReader",
    "Lane",
    "Lease",
    "Ledger",
    "Miss",
    "Presence",
    "PurgeStep",
    "Quarantine",
    "Recovery",
    "Redrives",
    "Retention",
    "Sessions",
    "Settlement",
    "Signals",
    "Steering",
    "TypeCatalog",
    "TypeInfo",
    "Undecodable",
    "WorkStore",
]
