"""Locks and writes that race: whatever the site's trail shows behind a lock was refused, or waits for its lifting."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event
from typing import Any

import pytest

from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.world import Caller

ROUNDS, WRITERS = 200, 3


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def trail(monitor: Caller, study: str) -> list[dict[str, Any]]:
    """The site's chain, oldest first; an entry has a line for each field."""
    entries: list[dict[str, Any]] = []
    cursor = None
    while not entries or cursor:
        more = {"cursor": cursor} if cursor else {}
        page = monitor.get("/v1/audit-entries", study=study, site="A", limit="500", **more).json()
        entries, cursor = [*entries, *page["items"]], page["next"]
    return sorted(entries, key=lambda entry: int(entry["seq"]))


def test_no_write_is_remembered_behind_a_lock_that_covers_it(live: LiveStudy) -> None:
    monitor, pid, over = live.caller("monitor"), live.enrolled(), Event()
    event = {"participant": pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}

    def writer(_: int) -> list[int]:
        told, path, seen = [], "", ""
        for number in count():
            if over.is_set():
                return told
            if number % 2 == 0 or not path:
                answer = live.staff.post("/v1/adverse-events", event)
            else:
                answer = live.staff.patch(path, {"reason": "counted on", "term": f"Headache {number}"}, seen)
            told.append(answer.status_code)
            if answer.is_success:
                path, seen = f"/v1/adverse-events/{answer.json()['id']}", answer.headers["ETag"]
        raise AssertionError

    def monitoring() -> list[int]:
        told = []
        for number in range(ROUNDS):
            what = {"site": "A"} if number % 2 else {"participant": pid}
            about = {"kind": "freeze", "study": live.study, "reason": "cleaning now", **what}
            lock = monitor.post("/v1/locks", about)
            lifted = monitor.post(f"{lock.headers['Location']}/lifting", {"reason": "cleaned"})
            told += [lock.status_code, lifted.status_code]
        return told

    with ThreadPoolExecutor(WRITERS) as threads:
        writing = [threads.submit(writer, number) for number in range(WRITERS)]
        try:
            assert set(monitoring()) == {201}
        finally:
            over.set()
        told = [status for future in writing for status in future.result()]

    assert set(told) <= {200, 201, 423}
    closed, written = False, set()
    for entry in trail(monitor, live.study):
        if entry["subject_type"] == "data_lock":
            closed = entry["action"] == "lock:set"
        elif entry["subject_type"] == "adverse_event":
            assert not closed, entry["seq"]
            written.add(entry["seq"])
    assert len(written) == len(told) - told.count(423)
    assert len(written) > ROUNDS / 4
    assert told.count(423) > ROUNDS / 20
