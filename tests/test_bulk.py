"""Bulk uploads: a line is a single post, and costs only itself."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from app.models.account import Role
from app.services import bulk
from tests.closing_cases import lock_of
from tests.hostile import census
from tests.world import Caller, World, madrs

NDJSON = "application/x-ndjson"
Line = dict[str, Any]


def line(record: Any, key: str | None = None) -> Line:
    return {"key": key or str(uuid4()), "record": record}


def sent(caller: Caller, noun: str, lines: list[Any], **query: Any) -> Response:
    text = b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)
    asked = "&".join(f"{name}={str(value).lower()}" for name, value in query.items())
    return caller.raw("POST", f"/v1/{noun}/bulk?{asked}", text, **{"Content-Type": NDJSON})


def results(answer: Response) -> list[Line]:
    assert answer.headers["Content-Type"] == NDJSON, answer.text
    return [json.loads(text) for text in answer.text.splitlines()]


def kinds(answer: Response) -> list[str]:
    return [one["result"] for one in results(answer)]


def test_each_noun_is_taken_line_by_line(world: World) -> None:
    people = sent(world.staff_a, "participants", [line(world.enrolment()) for _ in range(3)])
    assert (people.status_code, kinds(people)) == (200, ["created"] * 3)
    paths = [one["location"] for one in results(people)]
    assert all(world.staff_a.get(path).status_code == 200 for path in paths)
    pids = [path.rpartition("/")[2] for path in paths]
    visits = results(sent(world.staff_a, "visits", [line(world.visit(pid)) for pid in pids]))
    ids = [one["location"].rpartition("/")[2] for one in visits]
    bodies = [{"participant": pid, "visit": visit, **madrs(2)} for pid, visit in zip(pids, ids, strict=True)]
    assert kinds(sent(world.staff_a, "outcomes", [line(body) for body in bodies])) == ["created"] * 3
    assert kinds(sent(world.staff_a, "adverse-events", [line(world.event(pid)) for pid in pids])) == ["created"] * 3
    shown = world.staff_a.get(visits[0]["location"])
    assert shown.headers["ETag"] == visits[0]["etag"]


def test_a_broken_line_costs_exactly_itself(world: World) -> None:
    pid = world.enrolled()
    lines: list[Any] = [line(world.event(pid)) for _ in range(230)]
    lines[160] = b'{"key": "half'
    answer = sent(world.staff_a, "adverse-events", lines)
    assert answer.status_code == 207
    assert [one["line"] for one in results(answer) if "problem" in one] == [161]
    assert results(answer)[160]["problem"]["code"] == "malformed_json"
    assert kinds(answer).count("created") == 229
    lines[160] = line(world.event(pid))
    again = kinds(sent(world.staff_a, "adverse-events", lines))
    assert (again.count("replayed"), again[160]) == (229, "created")


@pytest.mark.parametrize("atomic", [False, True])
def test_visits_of_one_upload_are_checked_against_each_other_in_any_order(world: World, atomic: bool) -> None:
    pid, stored = world.enrolled(), {}
    assert world.staff_a.post("/v1/visits", world.visit(pid, "INT1A", "2025-03-04")).status_code == 201
    days = {"INT1B": "2025-02-08", "INT1C": "2025-02-22", "DOS1": "2025-02-01", "PREP1": "2025-02-05"}
    lines = [line(world.visit(pid, code, day)) for code, day in days.items()]
    assert kinds(sent(world.staff_a, "visits", lines, atomic=atomic)) == ["created"] * 4
    for visit in world.staff_a.get("/v1/visits", participant=pid).json()["items"]:
        stored[visit["visit_code"]] = [finding["code"] for finding in visit["findings"]]
    assert stored.pop("INT1A") == ["visit_outside_window"], "which was stored before"
    assert stored.pop("PREP1") == ["visit_out_of_order"]
    assert stored == {"INT1B": [], "INT1C": [], "DOS1": []}
    days = {"PRIM": "2025-02-08", "DOS2": "2025-03-01"}
    lines = [line(world.visit(pid, code, day)) for code, day in days.items()]
    assert kinds(sent(world.staff_a, "visits", lines, atomic=atomic)) == ["created"] * 2
    [visit] = world.staff_a.get("/v1/visits", participant=pid, visit_code="PRIM").json()["items"]
    assert [finding["code"] for finding in visit["findings"]] == ["visit_outside_window"], "which came with its anchor"
    asked = world.monitor.get("/v1/data-queries", participant=pid, subject=visit["id"], subject_type="visit").json()
    assert [query["rule"] for query in asked["items"]] == ["visit_outside_window"]


def refusals(world: World) -> Iterator[tuple[str, str, Any, str]]:
    """Noun, body, and what becomes of it."""
    pid, other = world.enrolled(), world.enrolled("B")
    visit = world.staff_a.post("/v1/visits", world.visit(pid)).json()["id"]
    taken = {"participant": pid, "visit": visit, **madrs(2)}
    assert world.staff_a.post("/v1/outcomes", taken).is_success
    yield "visits", "invalid", world.visit(pid, on="2025-13-45"), "validation_failed"
    yield "visits", "invalid", {**world.visit(pid), "colour": "blue"}, "validation_failed"
    yield "visits", "invalid", [], "validation_failed"
    yield "adverse-events", "invalid", world.event(other), "not_found"
    yield "outcomes", "invalid", {**taken, "instrument": "NO_SUCH"}, "instrument_unknown"
    yield "outcomes", "conflict", taken, "outcome_already_recorded"
    yield "visits", "conflict", world.visit(pid), "visit_already_recorded"
    yield "participants", "invalid", world.enrolment("B"), "not_found"
    locked = world.enrolled()
    assert world.monitor.post("/v1/locks", lock_of(world, "A", kind="lock", participant=locked)).is_success
    yield "adverse-events", "blocked", world.event(locked), "data_locked"


def test_a_line_is_refused_as_its_single_post_would_be(world: World) -> None:
    for noun, kind, body, code in refusals(world):
        single = world.staff_a.post(f"/v1/{noun}", body).json()
        (told,) = results(sent(world.staff_a, noun, [line(body)]))
        assert (told["result"], told["problem"]["code"]) == (kind, code), told
        for document in (single, told["problem"]):
            document.pop("request_id")
        assert told["problem"] == single


def test_of_many_faults_the_first_hundred_are_shown_and_the_number_of_others(world: World) -> None:
    body = {**world.event(world.enrolled()), **dict.fromkeys(map("field_{}".format, range(150)), 1)}
    (told,) = results(sent(world.staff_a, "adverse-events", [line(body)]))
    single = world.staff_a.post("/v1/adverse-events", body).json()
    for problem in (told["problem"], single):
        assert (len(problem["errors"]), problem["more_errors"]) == (100, 50)
    few = world.staff_a.post("/v1/adverse-events", {**world.event(world.enrolled()), "colour": 1}).json()
    assert "more_errors" not in few


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"[1]", "line_malformed"),
        (b'{"key": "a"}', "line_malformed"),
        (b'{"key": "a", "record": {}, "more": 1}', "line_malformed"),
        (b'{"key": "", "record": {}}', "idempotency_key_missing"),
        (b'{"key": 5, "record": {}}', "idempotency_key_missing"),
        (b'{"key": "a", "key": "b", "record": {}}', "malformed_json"),
        (b"\xff\xfe", "malformed_json"),
        (b'{"key": "a", "record": ' + b"[" * 5000 + b"}", "malformed_json"),
        (b'{"key": "a", "record": "' + b"x" * (1 << 20) + b'"}', "body_too_large"),
    ],
    ids=range(9),
)
def test_an_invalid_line_is_reported_and_echoed_nowhere(world: World, text: bytes, code: str) -> None:
    staff = world.staff_a
    before = census(world.registry.database.engine)
    answer = sent(staff, "visits", [text])
    assert (answer.status_code, [one["problem"]["code"] for one in results(answer)]) == (207, [code])
    assert b"xxxx" not in answer.content
    assert census(world.registry.database.engine) == before


def test_a_key_is_the_same_in_bulk_and_alone(world: World) -> None:
    pid, key = world.enrolled(), str(uuid4())
    body = world.event(pid)
    single = world.staff_a.post("/v1/adverse-events", body, key)
    (told,) = results(sent(world.staff_a, "adverse-events", [line(body, key)]))
    assert (told["result"], told["location"]) == ("replayed", single.headers["Location"])
    (other,) = results(sent(world.staff_a, "adverse-events", [line(world.event(pid, severity="severe"), key)]))
    assert other["problem"]["code"] == "idempotency_key_reused"
    twice = [line(world.event(pid), "one-key"), line(world.event(pid), "one-key")]
    assert kinds(sent(world.staff_a, "adverse-events", twice)) == ["created", "replayed"]


def test_all_or_nothing_stores_all_or_nothing(world: World) -> None:
    pid = world.enrolled()
    lines = [line(world.event(pid)) for _ in range(4)]
    broken = [*lines[:2], line({}), *lines[2:]]
    before = census(world.registry.database.engine)
    answer = sent(world.staff_a, "adverse-events", broken, atomic=True)
    assert answer.status_code == 422
    codes = [one["problem"]["code"] for one in results(answer)]
    assert codes == ["batch_refused", "batch_refused", "validation_failed", "batch_refused", "batch_refused"]
    assert census(world.registry.database.engine) == before
    whole = sent(world.staff_a, "adverse-events", lines, atomic=True)
    assert (whole.status_code, kinds(whole)) == (200, ["created"] * 4)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_dry_run_shows_everything_and_stores_nothing(world: World, atomic: bool) -> None:
    pid = world.enrolled()
    lines = [line(world.event(pid)), line({}), line(world.event(pid))]
    before = census(world.registry.database.engine)
    answer = sent(world.staff_a, "adverse-events", lines, atomic=atomic, dry_run=True)
    assert kinds(answer) == ["valid", "invalid", "valid"]
    assert census(world.registry.database.engine) == before


def test_a_dry_run_gives_the_address_of_a_line_stored_before(world: World) -> None:
    stored = line(world.event(world.enrolled()))
    (first,) = results(sent(world.staff_a, "adverse-events", [stored]))
    (tried,) = results(sent(world.staff_a, "adverse-events", [stored], dry_run=True))
    assert tried == {**first, "result": "replayed"}


def test_a_single_post_can_be_tried_without_storing(world: World) -> None:
    pid = world.enrolled()
    before = census(world.registry.database.engine)
    tried = world.staff_a.post("/v1/visits?dry_run=true", world.visit(pid, outcomes=[madrs(3)]))
    assert (tried.status_code, tried.json()["dry_run"]) == (200, True)
    assert tried.json()["answer"]["outcomes"][0]["scores"][0]["value"] == 30
    refused = world.staff_a.post("/v1/visits?dry_run=true", world.visit(pid, on="2025-13-45"))
    assert refused.json()["code"] == "validation_failed"
    assert census(world.registry.database.engine) == before
    assert world.staff_a.post("/v1/visits", world.visit(pid, outcomes=[madrs(3)])).status_code == 201


def test_an_array_is_taken_too_and_nothing_else(world: World) -> None:
    pid = world.enrolled()
    array = json.dumps([line(world.event(pid)), line({})]).encode()
    answer = world.staff_a.raw("POST", "/v1/adverse-events/bulk", array)
    assert (answer.status_code, kinds(answer)) == (207, ["created", "invalid"])
    assert world.staff_a.raw("POST", "/v1/adverse-events/bulk", b"{}").json()["code"] == "malformed_json"
    csv = world.staff_a.raw("POST", "/v1/adverse-events/bulk", b"a,b", **{"Content-Type": "text/csv"})
    assert csv.status_code == 415
    for coding, status in (("gzip", 415), ("identity, br", 415), ("identity", 207)):
        coded = world.staff_a.raw("POST", "/v1/adverse-events/bulk", array, **{"Content-Encoding": coding})
        assert coded.status_code == status, coded.text
    assert world.staff_a.raw("POST", "/v1/visits", b"{}", **{"Content-Encoding": "gzip"}).headers["Accept-Encoding"]
    assert "application/x-ndjson" in csv.json()["detail"]


def test_too_many_lines_are_not_tried_and_the_others_are_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state = world.registry.app.state._state
    monkeypatch.setitem(state, "settings", state["settings"].model_copy(update={"max_bulk_lines": 60}))
    lines = [line(world.event(world.enrolled())) for _ in range(70)]
    answer = sent(world.staff_a, "adverse-events", lines)
    assert kinds(answer) == ["created"] * 60 + ["invalid"]
    assert results(answer)[-1]["problem"]["code"] == "too_many_lines"
    assert sent(world.staff_a, "adverse-events", lines, atomic=True).status_code == 413


def test_an_atomic_upload_is_no_larger_than_a_body(world: World) -> None:
    one = json.dumps(line(world.event(world.enrolled()))).encode()
    most = world.registry.app.state.settings.max_body_bytes // 2
    whole, longer = [one.ljust(most)], [one.ljust(most), one.ljust(most + 1)]
    assert sent(world.staff_a, "adverse-events", whole, atomic=True).status_code == 200
    assert sent(world.staff_a, "adverse-events", longer).status_code == 200
    refused = sent(world.staff_a, "adverse-events", longer, atomic=True)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


def test_a_grant_that_ends_meanwhile_ends_the_upload(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    account = world.account((Role.site_staff, "A"))
    caller = Caller(world.registry.client, world.token(account))
    pid, stored = world.enrolled(), bulk.Upload.store

    def store(self: bulk.Upload, lines: Any) -> Any:
        told = stored(self, lines)
        world.revoke(account)
        return told

    monkeypatch.setattr(bulk.Upload, "store", store)
    answer = sent(caller, "adverse-events", [line(world.event(pid)) for _ in range(bulk.BATCH + 1)])
    assert answer.status_code == 401
    events = world.staff_a.get("/v1/adverse-events", participant=pid, limit=500).json()["items"]
    assert len(events) == bulk.BATCH
