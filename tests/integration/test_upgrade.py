"""Rows and messages of earlier releases are handled to the end by today's code; so is what a later release adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobkit.adapters.rabbitmq import codec
from jobkit.domain.filter import parse_filter
from jobkit.domain.job import JobState, QuarantineReason
from jobkit.domain.submit import Submit
from tests.conftest import _STARTING, _leave_out
from tests.integration.stage import Place, Stage, Trade
from tests.integration.upgrade_kit import RELEASES, UNKNOWN_FIELD, UNKNOWN_HEADERS, Release, publish
from tests.servers import PrivateRedis

OLD = {"RETENTION_DAYS": "3650"}  # finished jobs of a release of long ago stay for the test
TYPES = ("email", "sms", "fax")


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    return Release(request.param)


@pytest.fixture
def embedded(tmp_path: Path, namespace: str) -> Place:
    """Without tables: they are the release's."""
    return Place({"DATABASE_URL": f"sqlite:///{tmp_path}/selfheal.db"}, namespace)


@pytest.fixture
def real(postgres_url: str, real: Place) -> Place:
    """Without tables, too."""
    return replace(real, environ={**real.environ, "DATABASE_URL": postgres_url})


@pytest.fixture
def servers(request: pytest.FixtureRequest, real: Place) -> Iterator[Place]:
    """The job types are those of the release: a Redis of our own, since operators' keys have no prefix."""
    try:
        with PrivateRedis() as server:
            yield replace(real, environ={**real.environ, "REDIS_URL": server.url})
    except _STARTING as error:
        _leave_out(request.config, "Redis", error)


_REAL = pytest.param("servers", marks=[pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis])


@pytest.fixture(params=["embedded", _REAL])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("later", [False, True], ids=["as it was left", "widened by a later release"])
async def test_rows_of_a_release(release: Release, place: Place, later: bool) -> None:
    url, jobs = place.environ["DATABASE_URL"], release.jobs
    await release.restore(url)
    if later:
        await release.add_columns(url)
    trades = [Trade(job_type) for job_type in TYPES]
    async with Stage(place) as stage:
        await stage.jobapi()
        await stage.controlplane(JOB_LEASE="1", **OLD)
        await stage.worker(*trades, JOB_LEASE="1", COOLDOWN_PERIOD="1")
        for name in ("pending", "queued", "retrying", "running", "healing fax"):
            assert (await stage.reaches(jobs[name], JobState.SUCCEEDED, patience=20)).finish_time, name
        await stage.reaches(jobs["cancelling"], JobState.CANCELLED, patience=20)
        for name in ("succeeded", "cancelled", "discarded"):
            assert (await stage.job(jobs[name])).state is JobState[name.upper()]
        await _quarantined_ones_can_be_retried(stage, release)
        held = await stage.job(jobs["held sms"])
        assert held.quarantine is not None
        assert held.quarantine.reason is QuarantineReason.BREAKER_OPEN
    ran = {job_id for trade in trades for job_id in trade.ids}
    assert not ran & {
        jobs[name] for name in ("succeeded", "cancelled", "discarded", "cancelling", "held sms")
    }


@pytest.mark.postgres
@pytest.mark.rabbitmq
@pytest.mark.redis
@pytest.mark.parametrize("later", [False, True], ids=["of this release", "of a later one"])
async def test_messages_alone_make_their_jobs_run(release: Release, servers: Place, later: bool) -> None:
    """No control plane is there to publish other ones."""
    await release.restore(servers.environ["DATABASE_URL"])
    async with Stage(servers) as stage:
        await stage.jobapi()
        await stage.worker(Trade("email"))
        await publish(servers.environ["RABBITMQ_URL"], release.tokens, later=later)
        for name in release.tokens:
            await stage.reaches(release.jobs[name], JobState.SUCCEEDED)


async def _quarantined_ones_can_be_retried(stage: Stage, release: Release) -> None:
    reasons = {
        "exhausted": QuarantineReason.RETRIES_EXHAUSTED,
        "refused": QuarantineReason.NON_RETRYABLE,
        "poison": QuarantineReason.POISON,
    }
    for name, reason in reasons.items():
        job = await stage.job(release.jobs[name])
        assert job.quarantine is not None
        assert (job.quarantine.reason, job.last_error is not None) == (reason, True)
        await stage.api.jobs.retry(job.job_id, None)
        await stage.reaches(job.job_id, JobState.SUCCEEDED)


async def test_reading_and_repeating_what_a_release_wrote(release: Release, embedded: Place) -> None:
    await release.restore(embedded.environ["DATABASE_URL"])
    async with Stage(embedded) as stage:
        await stage.jobapi()
        labelled, _ = await stage.api.jobs.list(parse_filter('labels.tenant = "acme"'), 10, None)
        assert [job.job_id for job in labelled] == [release.jobs["pending"]]
        everything, _ = await stage.api.jobs.list(parse_filter(""), 100, None)
        assert {job.job_id for job in everything} == set(release.jobs.values())
        succeeded = await stage.job(release.jobs["succeeded"])
        assert succeeded.result == b"{}"
        again = Submit("email", b'{"to": "other"}', request_id="r-1")
        with pytest.raises(Exception, match="was used with other content"):
            await stage.api.jobs.submit(again)


def test_a_message_of_a_later_release_decodes_as_far_as_we_know_it(release: Release) -> None:
    for token in release.tokens.values():
        body, headers = bytes.fromhex(token["body"]), token["headers"]
        known = codec.decode(body, headers, token["content_type"], "email")
        assert known is not None
        more = codec.decode(
            body + UNKNOWN_FIELD, {**headers, **UNKNOWN_HEADERS}, token["content_type"], "email"
        )
        assert more == known


def test_this_release_has_been_recorded(tmp_path: Path) -> None:
    from jobkit import __version__  # noqa: PLC0415 - the one that is installed

    assert __version__ in RELEASES, "run `python -m tests.data.record`"
