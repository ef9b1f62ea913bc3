"""A token in this worker's hand, from its delivery to its end.

The broker closes a channel on which a token stays unacknowledged for too long (RabbitMQ's `consumer_timeout`, 30
minutes). So a token that waits goes back in time, and that of a long run is let go: acknowledged before its job ends,
because the claim guards the job from then on. Should the job have to go back after all, its row is nobody's, and the
overdue reconciler publishes another token.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobkit.ports import Delivery, Lane


@dataclass(slots=True, eq=False)
class Hand:
    """`since` is the loop's time of the delivery, in seconds."""

    lane: Lane
    delivery: Delivery
    since: float
    guarded: bool = False
    """The row says that the job runs here: the token may be let go."""
    let_go: bool = False

    async def let_go_of(self) -> None:
        """Acknowledge the token of a run that goes on."""
        self.let_go = True
        await self.lane.ack([self.delivery])

    def keep(self) -> bool:
        """From here on the token is not let go; False when that has happened."""
        self.guarded = False
        return not self.let_go

    async def ack(self) -> None:
        """Done with it."""
        if not self.let_go:
            await self.lane.ack([self.delivery])

    async def give_back(self) -> None:
        """Back to its place in the queue."""
        if not self.let_go:
            await self.lane.give_back([self.delivery])
