"""Locks and writes that race: what the site's trail shows behind a lock is outside it, or came after its lifting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice, takewhile
from threading import Event
from typing import Any

import pytest
from httpx2 import Response

from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.world import Caller, madrs

ROUNDS = 80
OF_A_VISIT = frozenset({"visit", "outcome"})
EVERYTHING = OF_A_VISIT | {"participant", "adverse_event"}
Write = Callable[[int], Response]


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


class Closed:
    """A participant with a visit, an outcome and an adverse event; who keeps changing them, and who closes them."""

    def __init__(self, live: LiveStudy) -> None:
        self.live, self.monitor, self.over = live, live.caller("monitor"), Event()
        self.pid = live.enrolled()
        visit = {"participant": self.pid, "visit_code": "BL", "occurred_on": "2025-01-25", "status": "completed"}
        self.visit = self._made("/v1/visits", {**visit, "outcomes": [madrs(2)]})
        self.outcome = live.staff.get(f"/v1/outcomes/{self.visit.json()['outcomes'][0]['id']}")
        event = {"participant": self.pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
        self.event = self._made("/v1/adverse-events", event)
        self.person = live.staff.get(f"/v1/participants/{self.pid}")
        self.writes: tuple[Write, ...] = (
            self._changes(self.person, f"participants/{self.pid}", lambda n: {"age_at_consent": 40 + n % 2}),
            self._changes(
                self.visit, f"visits/{self.visit.json()['id']}", lambda n: {"occurred_on": f"2025-01-2{6 + n % 2}"}
            ),
            self._changes(
                self.outcome, f"outcomes/{self.outcome.json()['id']}", lambda n: {"items": {"MADRS_01": n % 2}}
            ),
            self._changes(self.event, f"adverse-events/{self.event.json()['id']}", lambda n: {"term": f"Ache {n}"}),
            lambda n: live.staff.post("/v1/adverse-events", {**event, "term": f"Nausea {n}"}),
        )
        self.writers = (self.writes[:1], self.writes[1:3], self.writes[3:])

    def _made(self, path: str, body: Mapping[str, Any]) -> Response:
        answer = self.live.staff.post(path, body)
        assert answer.status_code == 201, answer.text
        return answer

    def _changes(self, record: Response, path: str, change: Callable[[int], Mapping[str, Any]]) -> Write:
        seen = record.headers["ETag"]

        def write(number: int) -> Response:
            nonlocal seen
            answer = self.live.staff.patch(f"/v1/{path}", {"reason": "counted on", **change(number)}, seen)
            seen = answer.headers.get("ETag", seen)
            return answer

        return write

    def keep_writing(self, writes: Sequence[Write]) -> list[int]:
        """One writer, who takes turns between these writes until all is over."""
        numbers = takewhile(lambda _: not self.over.is_set(), count())
        return [writes[number % len(writes)](number // len(writes)).status_code for number in numbers]

    def close_and_open(self) -> Mapping[str, frozenset[str]]:
        """What each lock covered, by its id."""
        scopes = (
            ({"participant": self.pid}, EVERYTHING),
            ({"visit": self.visit.json()["id"]}, OF_A_VISIT),
            ({"site": "A", "visit_code": "BL"}, OF_A_VISIT),
            ({"site": "A"}, EVERYTHING),
            ({}, EVERYTHING),
        )
        covered = {}
        for number in range(ROUNDS):
            given, kinds = scopes[number % len(scopes)]
            about = {"kind": "lock", "study": self.live.study, "reason": "cleaning now", **given}
            lock = self.monitor.post("/v1/locks", about)
            assert lock.status_code == 201, lock.text
            covered[lock.json()["id"]] = kinds
            lifted = self.monitor.post(f"{lock.headers['Location']}/lifting", {"reason": "cleaned"})
            assert lifted.status_code == 201, lifted.text
        return covered


def trail(monitor: Caller, study: str) -> list[tuple[str, str, str]]:
    """Action, kind and id of the subject of each entry of the site's chain, oldest first."""
    entries: dict[int, tuple[str, str, str]] = {}
    cursor = None
    while not entries or cursor:
        more = {"cursor": cursor} if cursor else {}
        page = monitor.get("/v1/audit-entries", study=study, site="A", limit="500", **more).json()
        for line in page["items"]:  # one for each field
            entries[int(line["seq"])] = (line["action"], line["subject_type"], line["subject_id"])
        cursor = page["next"]
    return [entries[seq] for seq in sorted(entries)]


def test_no_write_is_remembered_behind_a_lock_that_covers_it(live: LiveStudy) -> None:
    closed = Closed(live)
    with ThreadPoolExecutor(len(closed.writers)) as threads:
        writing = [threads.submit(closed.keep_writing, writes) for writes in closed.writers]
        try:
            covered = closed.close_and_open()
        finally:
            closed.over.set()
        told = [status for future in writing for status in future.result()]

    assert set(told) <= {200, 201, 423}
    holding: frozenset[str] = frozenset()
    entries, written = trail(closed.monitor, live.study), 0
    begun = next(number for number, (action, _, _) in enumerate(entries) if action == "lock:set")
    for action, kind, subject in islice(entries, begun, None):
        if kind == "data_lock":
            holding = covered[subject] if action == "lock:set" else frozenset()
        else:
            assert kind not in holding, (action, subject)
            written += 1
    assert len(covered) == ROUNDS
    assert written > ROUNDS / 4
    assert told.count(423) > ROUNDS / 20
