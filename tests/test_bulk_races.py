"""Uploads and corrections at the same time as other requests: the first one is replayed or named, and none waits for
ever."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import text

from app import audit
from app.services import bulk
from app.services.assessments import visit_findings
from tests.monitor_cases import an_event, question_about
from tests.test_bulk import kinds, line, results, sent
from tests.world import World

Rows = list[dict[str, Any]]


def overtaken(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, upload: Callable[[], Response], other: Callable[[], Any]
) -> Response:
    """The answer to an upload, when another request is committed between its looking for earlier answers
    (`answers_of`), or all its looking (`store`), and what follows. On SQLite, which has one writer, it comes before."""
    if world.on_sqlite:
        other()
        return upload()
    real, begun = getattr(bulk, step), Event()

    def late(*given: Any) -> Any:
        if begun.is_set():
            return real(*given)
        begun.set()
        found = real(*given) if step == "answers_of" else None
        other()
        return real(*given) if found is None else found

    monkeypatch.setattr(bulk, step, late)
    return upload()


def visits_of_one(world: World) -> Rows:
    """Visits of several people have nobody come between."""
    pid = world.enrolled()
    return [world.visit(pid, code, "2025-02-25") for code in ("BL", "PREP1", "UNS")]


def records(world: World, noun: str) -> Rows:
    if noun == "participants":
        return [line(world.enrolment()) for _ in range(3)]
    if noun == "visits":
        return [line(one) for one in visits_of_one(world)]
    return [line(world.event(world.enrolled())) for _ in range(3)]


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "by line"])
@pytest.mark.parametrize(
    ("noun", "step"),
    [("participants", "answers_of"), ("visits", "answers_of"), ("visits", "store"), ("adverse-events", "store")],
)
def test_an_upload_that_is_sent_again_while_it_is_at_work_is_replayed(
    world: World, monkeypatch: pytest.MonkeyPatch, noun: str, step: str, atomic: bool
) -> None:
    lines = records(world, noun)

    def upload() -> Response:
        return sent(world.staff_a, noun, lines, atomic=atomic)

    answer = overtaken(world, monkeypatch, step, upload, upload)
    assert (answer.status_code, kinds(answer)) == (200, ["replayed"] * 3)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "by line"])
def test_a_visit_that_somebody_else_records_meanwhile_is_refused_by_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    first, second, _ = visits_of_one(world)

    def upload() -> Response:
        return sent(world.staff_a, "visits", [line(first), line(second)], atomic=atomic)

    answer = overtaken(world, monkeypatch, "store", upload, lambda: world.staff_a.post("/v1/visits", second))
    told = [one.get("problem", {}).get("code") for one in results(answer)]
    assert told == ["batch_refused" if atomic else None, "visit_already_recorded"]
    again = kinds(sent(world.staff_a, "visits", [line(first), line(second)]))
    assert again == ["created" if atomic else "conflict", "conflict"]


def test_an_upload_whose_keys_are_used_meanwhile_again_and_again_may_be_retried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(world.event(world.enrolled()))]
    monkeypatch.setattr(bulk, "store", lambda *_: False)
    whole = sent(world.staff_a, "adverse-events", lines, atomic=True)
    assert (whole.json()["code"], whole.headers["Retry-After"]) == ("idempotency_key_in_flight", "1")
    [told] = results(sent(world.staff_a, "adverse-events", lines))
    assert (told["result"], told["problem"]["code"]) == ("conflict", "idempotency_key_in_flight")


def until_somebody_waits(world: World) -> None:
    """Until a transaction waits for another one's lock. PostgreSQL shows a transaction one moment of the others'."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    for _ in range(500):
        with world.registry.database.engine.connect() as connection:
            if connection.execute(text(waiting)).scalar():
                return
        time.sleep(0.01)
    raise AssertionError("Nobody waits")


def test_no_visit_of_an_uploads_participants_is_recorded_between_its_look_and_its_storing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the upload would hold that visit later and in another order than the next upload: they wait for each other."""
    visits, look = [world.visit(world.enrolled()) for _ in range(2)], visit_findings.lock_visits

    def and_somebody_comes(*given: Any) -> None:
        look(*given)
        meanwhile.append(thread.submit(world.staff_a.post, "/v1/visits", visits[0]))
        if not world.on_sqlite:
            until_somebody_waits(world)

    monkeypatch.setattr(visit_findings, "lock_visits", and_somebody_comes)
    meanwhile: list[Future[Response]] = []
    with ThreadPoolExecutor(1) as thread:
        uploaded = sent(world.staff_a, "visits", [line(one) for one in visits], atomic=True)
        [single] = meanwhile
        assert kinds(uploaded) == ["created"] * 2
        assert single.result().json()["code"] == "visit_already_recorded"


def test_a_long_atomic_upload_and_a_correction_do_not_wait_for_each_other_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The correction holds the participant of the last line when the upload comes to it."""
    first, last = world.enrolled(), world.enrolled()
    place, append, held = f"/v1/participants/{last}", audit.append, Event()
    seen = world.staff_a.get(place).headers["ETag"]

    def slow(*given: Any) -> None:
        held.set()
        if not world.on_sqlite:
            until_somebody_waits(world)
        append(*given)

    monkeypatch.setattr(audit, "append", slow)
    with ThreadPoolExecutor(1) as thread:
        change = {"reason": "misread", "age_at_consent": 42}
        corrected = thread.submit(world.staff_a.patch, place, change, seen)
        assert held.wait(10)
        lines = [line(world.event(pid)) for pid in [first] * bulk.BATCH + [last]]
        uploaded = sent(world.staff_a, "adverse-events", lines, atomic=True)
        assert (corrected.result().status_code, uploaded.status_code) == (200, 200)


def test_uploads_of_the_same_enrolments_in_another_order_do_not_wait_for_each_other_for_ever(world: World) -> None:
    bodies = [world.enrolment() for _ in range(10)]
    orders = [bodies, bodies[::-1], [*bodies[5:], *bodies[:5]], [*bodies[1::2], *bodies[::2]]]
    with ThreadPoolExecutor(len(orders)) as threads:
        uploads = [
            threads.submit(sent, world.staff_a, "participants", [line(body) for body in order], atomic=True)
            for order in orders
        ]
    answers = sorted((one.result() for one in uploads), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 422, 422, 422]
    refused = [one["problem"]["code"] for answer in answers[1:] for one in results(answer)]
    assert refused == ["label_already_enrolled"] * 30


def test_a_participant_can_be_queried_while_being_corrected(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data query refers to its participant. Were it to wait for the correction, and that for a visit which the pass
    over the registry holds, neither could go on."""
    if world.on_sqlite:
        pytest.skip("one writer at a time")
    event, append = an_event(world, "A").json(), audit.append
    asked: list[Response] = []

    def meanwhile(*given: Any) -> None:
        monkeypatch.setattr(audit, "append", append)
        asked.append(world.monitor.post("/v1/data-queries", question_about(event)))
        append(*given)

    monkeypatch.setattr(audit, "append", meanwhile)
    place = f"/v1/participants/{event['participant']}"
    seen = world.staff_a.get(place).headers["ETag"]
    assert world.staff_a.patch(place, {"reason": "misread", "age_at_consent": 42}, seen).status_code == 200
    assert [answer.status_code for answer in asked] == [201], asked[0].text
