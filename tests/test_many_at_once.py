"""More requests at once than there are threads and connections: all are answered, none waits for another for ever."""

import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from app.models.sync import Operation
from app.services.offline import sync_shelf
from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.world import World

AT_ONCE, ROUNDS = 80, 2
"""Twice the threads of a worker, twenty times its connections."""


TLS = ssl.create_default_context()
"""Made once: it takes longer than a request."""


@pytest.fixture
def study(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def connection(study: LiveStudy) -> httpx.Client:
    return httpx.Client(base_url=study.server.base_url, timeout=60, trust_env=False, verify=TLS)


def statuses(study: LiveStudy, method: str, paths: list[str], body: object = None, **headers: str) -> set[int]:
    """The status codes of all these requests, sent at the same time over connections of their own."""
    sent = {"Authorization": f"Bearer {study.staff.token}", **headers}

    def ask(path: str) -> int:
        with connection(study) as client:
            return client.request(method, path, json=body, headers=sent).status_code

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return set(threads.map(ask, paths))


def test_many_readers_at_once_are_all_answered(study: LiveStudy) -> None:
    pid = study.staff.post("/v1/participants", study.enrolment()).json()["pid"]
    for path in ("/v1/adverse-events", f"/v1/participants/{pid}"):
        assert statuses(study, "GET", [path] * AT_ONCE * ROUNDS) == {200}


def test_many_corrections_at_once_are_all_answered(study: LiveStudy) -> None:
    people = [study.staff.post("/v1/participants", study.enrolment()) for _ in range(AT_ONCE)]
    tags = {person.headers["Location"]: person.headers["ETag"] for person in people}

    def correct(path: str) -> int:
        with connection(study) as client:
            headers = {"Authorization": f"Bearer {study.staff.token}", "If-Match": tags[path]}
            body = {"age_at_consent": 52, "reason": "typed wrongly"}
            return client.patch(path, json=body, headers=headers).status_code

    with ThreadPoolExecutor(AT_ONCE) as threads:
        assert set(threads.map(correct, tags)) == {200}


def test_large_acts_that_wait_hold_up_nobody_elses_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they refer to is looked for in a thread of the call's own, not where all requests come in."""
    searched, named = set(), sync_shelf._named

    def looked(one: Operation) -> frozenset[str]:
        searched.add(threading.current_thread().name)
        return named(one)

    monkeypatch.setattr(sync_shelf, "_named", looked)
    with ThreadPoolExecutor(1) as thread:  # what a test asks in its own is done in its own: tests/direct.py
        for _ in range(2):
            act = {"id": str(uuid4()), "path": "/v1/adverse-events", "body": world.event(f"@{uuid4()}")}
            told = thread.submit(world.staff_a.post, "/v1/sync", {"operations": [act]}).result().json()["results"]
            assert [one["result"] for one in told] == ["blocked"]
    assert searched
    assert all(name.startswith("AnyIO worker") for name in searched), searched
