"""The ports: what the product needs from the world. Each has an embedded and a real adapter, which pass the same
contract tests. Every method may raise `errors.Unavailable` where its world is away, and nothing of a driver.
"""

from jobkit.ports.breakers import BreakerStore, Ledger
from jobkit.ports.commands import Action, WorkerCommand, WorkerCommands
from jobkit.ports.dispatch import Delivery, Dispatch, Dispatcher, Lane, Undecodable
from jobkit.ports.fleet import FleetViews
from jobkit.ports.jobs import Accepted, Held, Intake, JobReader, Lease, Miss, Settlement, Steering, WorkStore
from jobkit.ports.presence import LiveWorker, Presence, Sessions, TypeCatalog, TypeInfo
from jobkit.ports.recovery import Ages, PurgeStep, Recovery, Retention
from jobkit.ports.revisions import Revisions
from jobkit.ports.signals import Signals

__all__ = [
    "Accepted",
    "Action",
    "Ages",
    "BreakerStore",
    "Delivery",
    "Dispatch",
    "Dispatcher",
    "FleetViews",
    "Held",
    "Intake",
    "JobReader",
    "Lane",
    "Lease",
    "Ledger",
    "LiveWorker",
    "Miss",
    "Presence",
    "PurgeStep",
    "Recovery",
    "Retention",
    "Revisions",
    "Sessions",
    "Settlement",
    "Signals",
    "Steering",
    "TypeCatalog",
    "TypeInfo",
    "Undecodable",
    "WorkStore",
    "WorkerCommand",
    "WorkerCommands",
]
