"""BreakerService in memory: see fake_server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2, breaker_service_pb2_grpc

if TYPE_CHECKING:
    from tests.unit.fake_server import Memory


def now() -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC))
    return stamp


class FakeBreakerService(breaker_service_pb2_grpc.BreakerServiceServicer):
    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def ListBreakers(self, request, context):
        """One breaker a page, so that every caller must follow the pages."""

        def work():
            names = sorted(self.memory.breakers)
            at = int(request.page_token or 0)
            token = str(at + 1) if at + 1 < len(names) else ""
            breakers = [self.memory.breakers[name] for name in names[at : at + 1]]
            return breaker_service_pb2.ListBreakersResponse(breakers=breakers, next_page_token=token)

        return self.memory.serve(context, request, work)

    def GetBreaker(self, request, context):
        def work():
            return breaker_service_pb2.GetBreakerResponse(breaker=self.memory.breaker(request.breaker))

        return self.memory.serve(context, request, work)

    def ResetBreaker(self, request, context):
        def work():
            breaker = self._move(request, breaker_pb2.BREAKER_STATE_CLOSED)
            return breaker_service_pb2.ResetBreakerResponse(breaker=breaker)

        return self.memory.serve(context, request, work)

    def OpenBreaker(self, request, context):
        def work():
            breaker = self._move(request, breaker_pb2.BREAKER_STATE_OPEN, forced=True)
            breaker.open_time.CopyFrom(now())
            return breaker_service_pb2.OpenBreakerResponse(breaker=breaker)

        return self.memory.serve(context, request, work)

    def CloseBreaker(self, request, context):
        def work():
            breaker = self._move(request, breaker_pb2.BREAKER_STATE_CLOSED, forced=True)
            return breaker_service_pb2.CloseBreakerResponse(breaker=breaker)

        return self.memory.serve(context, request, work)

    def WatchBreakers(self, request, context):
        """The transitions so far after the revision, then the end that `memory.failures` says, or a clean one."""
        self.memory.requests.append(request)
        if not request.HasField("revision"):
            for breaker in self.memory.breakers.values():
                yield breaker_service_pb2.WatchBreakersResponse(breaker=breaker)
            yield breaker_service_pb2.WatchBreakersResponse(revision=1)
        for move in self.memory.history:
            if move.revision > max(request.revision, 1):
                yield breaker_service_pb2.WatchBreakersResponse(revision=move.revision, transition=move)
        if self.memory.failures:
            context.abort(self.memory.failures.popleft(), "over")

    def ListBreakerTransitions(self, request, context):
        """Two a page."""

        def work():
            before = int(request.page_token or 1000)
            found = [m for m in reversed(self.memory.history) if m.revision < before]
            found = [m for m in found if request.breaker in ("", m.breaker)]
            page = found[: min(request.page_size or 2, 2)]
            token = str(page[-1].revision) if len(found) > len(page) else ""
            return breaker_service_pb2.ListBreakerTransitionsResponse(transitions=page, next_page_token=token)

        return self.memory.serve(context, request, work)

    def ListIncidents(self, request, context):
        def work():
            found = [i for i in self.memory.incidents if not (request.open_only and i.HasField("close_time"))]
            return breaker_service_pb2.ListIncidentsResponse(incidents=found)

        return self.memory.serve(context, request, work)

    def GetIncident(self, request, context):
        def work():
            (found,) = [i for i in self.memory.incidents if i.incident_id == request.incident_id]
            return breaker_service_pb2.GetIncidentResponse(incident=found, transitions=self.memory.history)

        return self.memory.serve(context, request, work)

    def ListBreakerPolicies(self, request, context):
        def work():
            return breaker_service_pb2.ListBreakerPoliciesResponse(policies=self.memory.policies.values())

        return self.memory.serve(context, request, work)

    def GetBreakerPolicy(self, request, context):
        def work():
            found = self.memory.policies.get(request.breaker)
            patterns = [request.breaker] if found else []
            return breaker_service_pb2.GetBreakerPolicyResponse(
                policy=found, effective=found, patterns=patterns
            )

        return self.memory.serve(context, request, work)

    def UpdateBreakerPolicy(self, request, context):
        def work():
            request.policy.breaker = request.breaker
            request.policy.actor = request.actor
            if not request.validate_only:
                self.memory.policies[request.breaker] = request.policy
            return breaker_service_pb2.UpdateBreakerPolicyResponse(policy=request.policy)

        return self.memory.serve(context, request, work)

    def _move(self, request, to, *, forced=False):
        breaker = self.memory.breaker(request.breaker)
        breaker.transitions.add(
            from_state=breaker.state,
            to_state=to,
            generation=breaker.generation + 1,
            transition_time=now(),
            cause=breaker_pb2.TRANSITION_CAUSE_OPERATOR,
            actor=request.actor or "anonymous",
            reason=request.reason,
        )
        breaker.generation += 1
        breaker.state, breaker.forced = to, forced
        return breaker
