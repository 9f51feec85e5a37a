"""A retried POST happens once: the same key gives the first answer again, to the one who asked and no longer than
they may see it."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response
from pydantic import BaseModel
from sqlalchemy import create_engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from app.models.account import Role, RoleGrant
from app.models.adverse_event import AdverseEvent
from app.models.audit import AuditEntry
from app.models.base import canonical_json, now
from app.models.dosing_shapes import DosingSessionCreate
from app.models.idempotency import IdempotencyRecord
from app.models.participant import Participant, ParticipantCreate
from app.models.visit import VisitCreate
from app.pid import normalise
from app.services.operations import retries
from app.web.once import Once, Reply
from tests.course_cases import amended
from tests.courses import given
from tests.dosing_cases import SESSIONS, prepared, start
from tests.hostile import LiveStudy, census, live_study
from tests.label_cases import APPROVED, a_disclosure, asking
from tests.label_cases import PATH as LABELS
from tests.monitor_cases import an_event, question_about
from tests.route_cases import UNDER_AGREEMENT, a_cut, an_extract
from tests.server import LiveServer
from tests.world import Caller, World, without_role

AT_ONCE = 20


ANSWERED: dict[str, tuple[type[BaseModel], Callable[[World], dict[str, Any]], dict[str, Any]]] = {
    "/v1/participants": (ParticipantCreate, lambda world: world.enrolment(), {"enrolled_on": "2025-01-22"}),
    "/v1/visits": (VisitCreate, lambda world: world.visit(world.enrolled()), {"occurred_on": "2025-01-22"}),
    SESSIONS: (
        DosingSessionCreate,
        lambda world: start(prepared(world.staff_a, world.enrolled())["id"]),
        {"staff": ["T03", "T04"]},
    ),
}
"""Of paths: the shape of a body, a body, and what makes another request of it."""


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def test_the_same_request_gets_the_first_answer_again(world: World) -> None:
    key, body = str(uuid4()), world.event(world.enrolled())
    first = world.staff_a.post("/v1/adverse-events", body, key)
    assert "Idempotent-Replayed" not in first.headers
    before = census(world.registry.database.engine)
    again = world.staff_a.post("/v1/adverse-events", dict(reversed(body.items())), key)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert [again.headers[name] for name in ("ETag", "Location")] == [
        first.headers[name] for name in ("ETag", "Location")
    ]
    assert census(world.registry.database.engine) == before


def in_bulk(caller: Caller, path: str, key: str, body: dict[str, Any]) -> Any:
    answer = caller.post(f"{path}/bulk", [{"key": key, "record": body}])
    return json.loads(answer.text)["result"]


def test_a_key_in_quotes_is_the_same_key(world: World) -> None:
    staff, path = world.staff_a, "/v1/adverse-events"
    for first, again in (("{}", '"{}"'), ('"{}"', "{}")):
        key, body = str(uuid4()), world.event(world.enrolled())
        assert staff.post(path, body, first.format(key)).status_code == 201
        assert staff.post(path, body, again.format(key)).headers["Idempotent-Replayed"] == "true"
        assert in_bulk(staff, path, again.format(key), body) == "replayed"


def test_a_key_that_is_a_uuid_is_the_same_key_in_either_case(world: World) -> None:
    """And no other key is: whoever writes their own may tell them apart by case."""
    staff, path, body = world.staff_a, "/v1/adverse-events", world.event(world.enrolled())
    key = str(uuid4())
    for first, again in ((key.upper(), key), (f"{key}/A", f"{key}/a")):
        assert staff.post(path, body, first).status_code == 201
        assert staff.post(path, body, again).headers.get("Idempotent-Replayed") == ("true" if again == key else None)
    assert in_bulk(staff, path, key.upper(), body) == "replayed"


@pytest.mark.parametrize("form", ['"{}"', "{}"], ids=["quotes", "capitals"])
def test_what_an_older_version_kept_under_a_key_as_it_came_is_answered_again(world: World, form: str) -> None:
    key, body, path = str(uuid4()), world.event(world.enrolled()), "/v1/adverse-events"
    first, digest = world.staff_a.post(path, body, key), world.registry.app.state.keyring.digest
    came = form.format(key.upper())
    with world.registry.database.write() as session:
        mine = col(IdempotencyRecord.key_digest) == digest("idempotency", key.encode())
        stored = {"key_digest": digest("idempotency", came.encode())}
        session.execute(update(IdempotencyRecord).where(mine).values(stored))
    again = world.staff_a.post(path, body, came)
    assert (again.content, again.headers.get("Idempotent-Replayed")) == (first.content, "true")
    assert in_bulk(world.staff_a, path, came, body) == "replayed"


@pytest.mark.parametrize("path", ANSWERED)
def test_what_version_0_1_0_answered_is_answered_again_after_the_upgrade(world: World, path: str) -> None:
    """It kept the digest of every field that it knew, sent or not."""
    (model, asked, change), key = ANSWERED[path], str(uuid4())
    body = asked(world)
    first = world.staff_a.post(path, body, key)
    digest, unknown = world.registry.app.state.keyring.digest, {"pid": True, "vitals": {"reason"}}
    known = canonical_json(["POST", path, model.model_validate(body).model_dump(mode="json", exclude=unknown)])
    with world.registry.database.write() as session:
        mine = col(IdempotencyRecord.key_digest) == digest("idempotency", key.encode())
        stored = {"request_digest": digest("idempotency", known.encode())}
        session.execute(update(IdempotencyRecord).where(mine).values(stored))
    again = world.staff_a.post(path, body, key)
    assert (again.status_code, again.content) == (201, first.content)
    other = world.staff_a.post(path, {**body, **change}, key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_move_to_another_protocol_version_happens_once(world: World) -> None:
    pid, key = world.enrolled(protocol_version="1"), str(uuid4())
    path = f"/v1/participants/{pid}/protocol-version"
    there, back = ({"version": version, "reason": "amendment in force"} for version in (amended(world), "1"))
    tried = world.staff_a.post(f"{path}?dry_run=true", there)
    assert (tried.status_code, tried.json()["answer"]["protocol_version"]) == (200, there["version"])
    first = world.staff_a.post(path, there, key)
    assert world.staff_a.post(path, back).is_success
    again = world.staff_a.post(path, there, key)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["ETag"] == first.headers["ETag"]
    stands = world.staff_a.get(first.headers["Location"])
    assert stands.json()["protocol_version"] == "1", "the retry did not move them once more"


def test_a_request_with_two_keys_is_refused(world: World) -> None:
    keys = [("Authorization", f"Bearer {world.staff_a.token}"), *[("Idempotency-Key", str(uuid4())) for _ in range(2)]]
    refused = world.registry.client.post("/v1/adverse-events", json=world.event(world.enrolled()), headers=keys)
    told = [(error["pointer"], error["code"]) for error in refused.json()["errors"]]
    assert (refused.status_code, told) == (422, [("/header/Idempotency-Key", "repeated")])


def test_a_retry_may_spell_the_pid_in_another_way(world: World) -> None:
    key, pid = str(uuid4()), world.enrolled()
    body = {"status": "active", "effective_on": "2025-02-01", "reason": "first dosing"}
    first = world.staff_a.post(f"/v1/participants/{pid}/status", body, key)
    assert first.status_code == 201, first.text
    for spelled in (pid.lower(), pid.replace("-", "")):
        again = world.staff_a.post(f"/v1/participants/{spelled}/status", body, key)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["Idempotent-Replayed"] == "true"
    other = world.staff_a.post(f"/v1/participants/{world.enrolled()}/status", body, key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert world.staff_a.post("/v1/participants/7K3F/status", body, key).status_code == 422


def test_a_key_is_for_one_request_only(world: World) -> None:
    key, pid = str(uuid4()), world.enrolled()
    assert world.staff_a.post("/v1/adverse-events", world.event(pid), key).status_code == 201
    before = census(world.registry.database.engine)
    for path, body in (
        ("/v1/adverse-events", world.event(pid, severity="severe")),
        ("/v1/visits", world.visit(pid)),
        ("/v1/participants", world.enrolment()),
    ):
        refused = world.staff_a.post(path, body, key)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert census(world.registry.database.engine) == before


def test_a_refused_request_leaves_its_key_free(world: World) -> None:
    key, pid = str(uuid4()), world.enrolled(consent=given("2025-01-02"))
    late = world.visit(pid, "FU7M", "2025-12-24")
    assert world.staff_a.post("/v1/visits", world.visit(pid)).status_code == 201
    assert world.staff_a.post("/v1/visits", late, key).json()["code"] == "visit_outside_window"
    assert world.staff_a.post("/v1/visits", {**late, "deviation_reason": "moved house"}, key).status_code == 201


def test_somebody_elses_equal_key_is_another_key(world: World) -> None:
    key = str(uuid4())
    mine = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled("A")), key)
    theirs = world.staff_b.post("/v1/adverse-events", world.event(world.enrolled("B")), key)
    colleague = world.caller((Role.site_staff, "A")).post("/v1/adverse-events", world.event(world.enrolled("A")), key)
    assert len({answer.json()["id"] for answer in (mine, theirs, colleague)}) == 3


@pytest.mark.parametrize(
    "path", ["/v1/participants", "/v1/visits", "/v1/outcomes", "/v1/adverse-events", "/v1/extracts"]
)
def test_a_creating_request_without_a_key_is_refused(world: World, path: str) -> None:
    caller = world.analyst if path.endswith("extracts") else world.staff_a
    bodies = {
        "/v1/participants": world.enrolment(),
        "/v1/visits": world.visit(world.enrolled()),
        "/v1/outcomes": {"participant": world.enrolled(), "visit": str(uuid4()), "instrument": "MADRS", "items": {}},
        "/v1/adverse-events": world.event(world.enrolled()),
        "/v1/extracts": {"study": world.study, "purpose": "A question"},
    }
    before = census(world.registry.database.engine)
    headers = {"Authorization": f"Bearer {caller.token}"}
    refused = world.registry.client.post(path, json=bodies[path], headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, "idempotency_key_missing")
    assert census(world.registry.database.engine) == before


def test_the_refusal_of_a_long_key_says_how_long_it_may_be(world: World) -> None:
    refused = world.staff_a.post("/v1/participants", world.enrolment(), key="k" * 256)
    assert (refused.status_code, refused.json()["code"]) == (400, "idempotency_key_missing")
    assert "1 to 255 printable ASCII characters" in refused.json()["detail"]


def test_a_replay_is_refused_to_a_caller_who_lost_the_site(world: World) -> None:
    account = world.account((Role.site_staff, "A"), (Role.site_staff, "B"))
    key, body = str(uuid4()), world.event(world.enrolled())
    assert Caller(world.registry.client, world.token(account)).post("/v1/adverse-events", body, key).status_code == 201
    require_not_told(without_role(world, account, "A").post("/v1/adverse-events", body, key))


def require_not_told(refused: Response) -> None:
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert "Idempotent-Replayed" not in refused.headers


MADE_IN_A_STUDY: Mapping[str, tuple[Role, Callable[[World], tuple[str, Any]]]] = {
    "a request for an extract": (
        Role.analyst,
        lambda world: ("/v1/extracts", {**UNDER_AGREEMENT, "study": world.study}),
    ),
    "an approval": (
        Role.custodian,
        lambda world: (f"{an_extract(world)}/approval", {"decision": "approve", "reason": "agreed use"}),
    ),
    "a revocation": (
        Role.custodian,
        lambda world: (f"{an_extract(world, approved=True)}/revocation", {"reason": "misuse"}),
    ),
    "a data cut": (Role.custodian, lambda world: ("/v1/data-cuts", a_cut(world))),
    "a request for a label": (Role.monitor, lambda world: (LABELS, asking(world.enrolled()))),
    "a decision on a label": (Role.custodian, lambda world: (f"{a_disclosure(world)}/decision", APPROVED)),
    "questions": (Role.monitor, lambda world: ("/v1/data-queries/bulk", [question_about(an_event(world, "A").json())])),
}
"""What is kept with no one site, by who may do it."""


@pytest.mark.parametrize("what", MADE_IN_A_STUDY)
def test_a_replay_is_refused_to_a_caller_who_lost_the_study(world: World, what: str) -> None:
    role, asked = MADE_IN_A_STUDY[what]
    account, elsewhere, key = world.account((role, None)), World(world.registry), str(uuid4())
    path, body = asked(world)
    assert Caller(world.registry.client, world.token(account)).post(path, body, key).is_success
    with world.registry.database.write() as session:
        session.add(RoleGrant(account_id=account.id, role=role, study_id=elsewhere.study_id))
    kept = Caller(world.registry.client, world.token(account)).post(path, body, key)
    assert kept.headers["Idempotent-Replayed"] == "true"
    require_not_told(without_role(world, account).post(path, body, key))


def test_keys_and_labels_are_kept_as_digests_only(world: World) -> None:
    key, body = f"key-{uuid4()}", world.enrolment(site_local_id=f"SITE-{uuid4().hex[:8]}")
    assert world.staff_a.post("/v1/participants", body, key).status_code == 201
    with world.registry.database.read() as session:
        records = session.execute(select(IdempotencyRecord.__table__)).all()  # type: ignore[attr-defined]
    assert records
    everything = " ".join(str(value) for record in records for value in record)
    assert key not in everything
    assert body["site_local_id"] not in everything


def test_twenty_equal_requests_at_once_make_one_record(live: LiveStudy) -> None:
    pid, key = live.enrolled(), str(uuid4())
    body = {"participant": pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda _: live.staff.post("/v1/adverse-events", body, key), range(AT_ONCE)))
    assert [answer.status_code for answer in answers] == [201] * AT_ONCE
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == AT_ONCE - 1
    engine = create_engine(live.server.database_url)
    with engine.connect() as connection:
        events = select(func.count()).where(col(AdverseEvent.pid) == normalise(pid))
        entries = select(func.count()).where(col(AuditEntry.subject_id) == answers[0].json()["id"])
        assert (connection.scalar(events), connection.scalar(entries)) == (1, 1)
    engine.dispose()


def test_a_retry_during_the_first_request_is_told_to_try_again(world: World) -> None:
    pid, key, post = world.enrolled(), str(uuid4()), "/v1/adverse-events"
    body, database = world.event(pid), world.registry.database
    with ThreadPoolExecutor(1) as thread:
        with database.write() as other:  # somebody changes the participant, so the first request waits
            other.execute(update(Participant).where(col(Participant.pid) == normalise(pid)).values(race="WHITE"))
            first = thread.submit(world.staff_a.post, post, body, key)
            time.sleep(0.3)
            again = world.staff_a.post(post, body, key)
            if database.is_sqlite:  # waits in vain, however late it began to
                assert first.result().status_code == 503
        assert first.result().status_code == (503 if database.is_sqlite else 201)
    told = {"database_unavailable"} if database.is_sqlite else {"idempotency_key_in_flight"}
    assert (again.json()["code"], again.headers["Retry-After"]) == (told.pop(), "1")
    assert world.staff_a.post(post, body, key).status_code == 201
    assert len(world.staff_a.get(post, participant=pid).json()["items"]) == 1


def test_who_lost_to_another_record_and_then_to_an_equal_request_is_told_what_that_one_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world.on_sqlite:
        pytest.skip("has one writer: nobody comes between")
    key, body = str(uuid4()), world.event(world.enrolled())
    attempt, before, told = Once.attempt, ["lost", "overtaken"], []

    def beset(*given: Any) -> Reply:
        happens = before.pop(0) if before else None
        if happens == "lost":
            raise IntegrityError("", {}, Exception("UNIQUE constraint failed"))
        if happens == "overtaken":
            told.append(world.staff_a.post("/v1/adverse-events", body, key))
        return attempt(*given)

    monkeypatch.setattr(Once, "attempt", beset)
    answer = world.staff_a.post("/v1/adverse-events", body, key)
    assert (told[0].status_code, answer.status_code, answer.json()) == (201, 201, told[0].json())
    assert answer.headers["Idempotent-Replayed"] == "true"


def test_twenty_equal_enrolments_at_once_make_one_person(live: LiveStudy) -> None:
    key, body = str(uuid4()), live.enrolment()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda _: live.staff.post("/v1/participants", body, key), range(AT_ONCE)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["pid"] for answer in answers}) == 1
    engine = create_engine(live.server.database_url)
    with engine.connect() as connection:
        known = select(func.count()).where(col(Participant.pid) == normalise(answers[0].json()["pid"]))
        assert connection.scalar(known) == 1
    engine.dispose()
    assert len(live.staff.get("/v1/participants", study=live.study).json()["items"]) == 1


def test_an_answer_is_kept_for_ninety_days_and_its_record_is_never_doubled(world: World) -> None:
    pid, key, late = world.enrolled(), str(uuid4()), str(uuid4())
    body = world.visit(pid)
    assert world.staff_a.post("/v1/visits", body, key).status_code == 201
    assert world.staff_a.post("/v1/adverse-events", world.event(pid), late).status_code == 201
    assert retries.forget(world.registry.served, 90) == 0
    moved = update(IdempotencyRecord).where(col(IdempotencyRecord.created_at) > now() - timedelta(minutes=1))
    with world.registry.database.write() as session:
        session.execute(moved.values(created_at=now() - timedelta(days=91)))
    assert retries.forget(world.registry.served, 92) == 0
    assert retries.forget(world.registry.served, 90) >= 2
    again = world.staff_a.post("/v1/visits", body, key)
    assert (again.status_code, again.json()["code"]) == (409, "visit_already_recorded")
