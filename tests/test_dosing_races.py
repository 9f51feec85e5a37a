"""Two at once around a dosing session: one session starts, and no signal and start pass each other unseen."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from httpx2 import Response

from tests.dosing_cases import SESSIONS, SIGNALS, dose, held, path_of, prepared, start, suicidal
from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer
from tests.world import madrs

ROUNDS = 6


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def at_once(*requests: Callable[[], Response]) -> list[Response]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: request(), requests))


def test_of_two_sessions_started_at_once_one_starts(live: LiveStudy) -> None:
    for _ in range(ROUNDS):
        visit = prepared(live.staff, live.enrolled())
        answers = at_once(*[partial(live.staff.post, SESSIONS, start(visit["id"]))] * 3)
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
        codes = {answer.json()["code"] for answer in answers if answer.status_code == 409}
        assert codes == {"dosing_session_exists"}


def test_of_two_dosing_visits_started_at_once_one_starts(live: LiveStudy) -> None:
    for _ in range(ROUNDS):
        first = prepared(live.staff, live.enrolled())
        second = held(live.staff, first["participant"], "DOS2", "2025-03-31")
        answers = at_once(
            partial(live.staff.post, SESSIONS, start(first["id"])),
            partial(live.staff.post, SESSIONS, start(second["id"], "2025-03-31")),
        )
        assert sorted(answer.status_code for answer in answers) == [201, 409]
        assert {answer.json().get("code") for answer in answers} == {None, "dosing_session_open"}


@pytest.mark.parametrize("way", ["recorded", "corrected"])
def test_a_signal_and_a_start_at_once_come_one_after_the_other(live: LiveStudy, way: str) -> None:
    """A start that is acknowledged stands in the trail before the signal; one after it was refused."""
    monitor = live.caller("monitor")
    for _ in range(ROUNDS):
        visit = prepared(live.staff, live.enrolled())
        pid = visit["participant"]
        day = held(live.staff, pid, "UNS", "2025-03-02")
        body: dict[str, Any] = {"participant": pid, "visit": day["id"]}
        record = partial(live.staff.post, "/v1/outcomes", {**body, **suicidal()})
        if way == "corrected":
            made = live.staff.post("/v1/outcomes", {**body, **madrs(2)})
            change = {"reason": "typed wrongly", "items": {"MADRS_10": 5}}
            record = partial(live.staff.patch, made.headers["Location"], change, made.headers["ETag"])
        told, session = at_once(record, partial(live.staff.post, SESSIONS, start(visit["id"])))
        assert told.is_success
        (signal,) = monitor.get(SIGNALS, participant=pid).json()["items"]
        assert session.status_code in {201, 409}
        if session.status_code == 201:
            entries = monitor.get("/v1/audit-entries", participant=pid, limit="100").json()["items"]
            both = {signal["id"], session.json()["id"]}
            order = list(dict.fromkeys(entry["action"] for entry in entries if entry["subject_id"] in both))
            assert order == ["safety-signal:raised", "dosing-session:started"], "newest first"
            assert live.staff.post(path_of(session, "/doses"), dose()).json()["code"] == "dose_refused"
        else:
            assert [error["code"] for error in session.json()["errors"]] == ["DOSE-SIGNAL"]


def test_a_visit_is_corrected_while_its_session_starts_and_neither_waits_for_the_other_for_ever(
    live: LiveStudy,
) -> None:
    for _ in range(ROUNDS):
        visit = prepared(live.staff, live.enrolled())
        path = f"/v1/visits/{visit['id']}"
        change = {"reason": "typed wrongly", "ended_on": "2025-03-04"}
        seen = live.staff.get(path).headers["ETag"]
        outcome = {"participant": visit["participant"], "visit": visit["id"], **suicidal(1)}
        answers = at_once(
            partial(live.staff.patch, path, change, seen),
            partial(live.staff.post, SESSIONS, start(visit["id"])),
            partial(live.staff.post, "/v1/outcomes", outcome),
        )
        assert [answer.status_code for answer in answers] == [200, 201, 201]


def test_of_a_rating_and_a_treatment_by_one_person_at_once_one_is_refused(live: LiveStudy) -> None:
    for _ in range(ROUNDS):
        pid = live.enrolled()
        visit = held(live.staff, pid, "BL", "2025-02-10")
        rated = {"participant": pid, "visit": visit["id"], **madrs(2), "rater": "T01"}
        treated = {"participant": pid, "visit_code": "PREP1", "occurred_on": "2025-02-11", "status": "completed"}
        therapy = {"minutes": 90, "mode": "video", "staff": ["T01", "T02"]}
        answers = at_once(
            partial(live.staff.post, "/v1/outcomes", rated),
            partial(live.staff.post, "/v1/visits", {**treated, "therapy": therapy}),
        )
        assert sorted(answer.status_code for answer in answers) == [201, 409]
