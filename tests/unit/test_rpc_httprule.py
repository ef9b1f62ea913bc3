"""Path templates."""

from __future__ import annotations

import pytest

from jobkit.rpc.httprule import BadTemplate, parse


@pytest.mark.parametrize(
    ("template", "path", "fields"),
    [
        ("/v1/jobs", "/v1/jobs", {}),
        ("/v1/jobs", "/v1/jobs/", None),
        ("/v1/jobs:batchSubmit", "/v1/jobs:batchSubmit", {}),
        ("/v1/jobs:batchSubmit", "/v1/jobs%3AbatchSubmit", None),
        ("/v1/jobs/{job_id}", "/v1/jobs/42", {"job_id": "42"}),
        ("/v1/jobs/{job_id}", "/v1/jobs/", None),
        ("/v1/jobs/{job_id}", "/v1/jobs/4/2", None),
        ("/v1/jobs/{job_id}", "/v1/jobs/a%2Fb%20c", {"job_id": "a/b c"}),
        ("/v1/jobs/{job_id}:cancel", "/v1/jobs/42:cancel", {"job_id": "42"}),
        ("/v1/jobs/{job_id}:cancel", "/v1/jobs/42", None),
        ("/v1/breakers/{breaker}:reset", "/v1/breakers/a:b:reset", {"breaker": "a:b"}),
        ("/v1/breakers/{breaker}:reset", "/v1/breakers/a%3Ab:reset", {"breaker": "a:b"}),
        ("/v1/breakers/{breaker}:reset", "/v1/breakers/a%3Areset", None),
        ("/v1/breakers/{breaker}:reset", "/v1/breakers/reset:reset:reset", {"breaker": "reset:reset"}),
        ("/v1/breakers/{breaker}", "/v1/breakers/%40smtp", {"breaker": "@smtp"}),
        ("/v1/{name=queues/*}", "/v1/queues/a", {"name": "queues/a"}),
        ("/v1/{name=queues/*}", "/v1/other/a", None),
        ("/v1/{name=queues/*/jobs/*}:move", "/v1/queues/a/jobs/b:move", {"name": "queues/a/jobs/b"}),
        ("/v1/{a.b}/x/{c}", "/v1/1/x/2", {"a.b": "1", "c": "2"}),
        ("/v1/{name=**}", "/v1/a/b%2Fc%20d", {"name": "a/b%2Fc d"}),
        ("/v1/*/x", "/v1/any/x", {}),
    ],
)  # fmt: skip
def test_matching(template: str, path: str, fields: dict[str, str] | None) -> None:
    assert parse(template).match(path) == fields


@pytest.mark.parametrize(
    "text", ["v1/jobs", "/v1//jobs", "/v1/{a", "/v1/x{a}", "/v1/**/x", "/v1/{a={b}}", "/"]
)
def test_what_is_outside_of_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(BadTemplate):
        parse(text)


def test_the_more_specific_comes_first() -> None:
    texts = ["/v1/{name=**}", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}:cancel", "/v1/jobs/latest"]
    ranked = sorted(map(parse, texts), key=lambda template: template.rank)
    assert [template.text for template in ranked] == [
        "/v1/jobs/{job_id}:cancel", "/v1/jobs/latest", "/v1/jobs/{job_id}", "/v1/{name=**}",
    ]  # fmt: skip


def test_a_name_that_is_not_utf8_is_an_error() -> None:
    with pytest.raises(UnicodeDecodeError):
        parse("/v1/jobs/{job_id}").match("/v1/jobs/%ff")
