"""The ports: what the product needs from the world. Each has an embedded and a real adapter, which pass the same
contract tests. Every method may raise `errors.Unavailable` where its world is away, and nothing of a driver.
"""

from jobkit.ports.breakers import BreakerStore, Ledger
from jobkit.ports.commands import Action, WorkerCommand, WorkerCommands
from jobkit.ports.dispatch import Delivery, Dispatch, Dispatcher, Lane, Undecodable
from jobkit.ports.faults import Faults
from jobkit.ports.fleet import FleetViews
from jobkit.ports.history import History, Sums
from jobkit.ports.jobs import Accepted, Held, Intake, JobReader, Lease, Miss, Settlement, Steering, WorkStore
from jobkit.ports.limits import Grant, LimitStore
from jobkit.ports.policies import Policies
from jobkit.ports.presence import LiveWorker, Pause, Presence, Sessions, TypeCatalog, TypeInfo, TypeSteering
from jobkit.ports.quarantine import FailureGroup, GroupToken, Quarantine, Redrives
from jobkit.ports.recovery import Ages, PurgeStep, RecordStep, Recovery, Rescued, Retention
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
    "FailureGroup",
    "Faults",
    "FleetViews",
    "Grant",
    "GroupToken",
    "Held",
    "History",
    "Intake",
    "JobReader",
    "Lane",
    "Lease",
    "Ledger",
    "LimitStore",
    "LiveWorker",
    "Miss",
    "Pause",
    "Policies",
    "Presence",
    "PurgeStep",
    "Quarantine",
    "RecordStep",
    "Recovery",
    "Redrives",
    "Rescued",
    "Retention",
    "Revisions",
    "Sessions",
    "Settlement",
    "Signals",
    "Steering",
    "Sums",
    "TypeCatalog",
    "TypeInfo",
    "TypeSteering",
    "Undecodable",
    "WorkStore",
    "WorkerCommand",
    "WorkerCommands",
]
