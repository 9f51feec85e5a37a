"""Electronic signatures: who may sign, what is covered, and what breaks a signature (21 CFR 11.50, 11.70, 11.200)."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, select

from app.models.account import Account, AccountKind, Role
from app.models.audit import AuditEntry
from tests.course_cases import TREATMENT, TREATMENT_AMENDED, VOIDING, WITHDRAWAL
from tests.dosing_cases import a_session, dose
from tests.monitor_cases import an_event
from tests.route_cases import PASSWORD, a_signature, a_visit, content_of, signature_of, totp_code, with_password
from tests.world import Caller, World, madrs

MEANINGS = ("approval", "authorship", "responsibility", "review")


def content(world: World, pid: str, **visit: str) -> dict[str, Any]:
    read: dict[str, Any] = world.staff_a.get("/v1/signatures/content", participant=pid, **visit).json()
    return read


def signed_record(world: World, pid: str) -> Response:
    """The participant's whole record, signed by the investigator of site A."""
    with_password(world, world.investigator)
    sha256 = content(world, pid)["content_sha256"]
    body = {"participant": pid, "meaning": "approval", "content_sha256": sha256, "password": PASSWORD}
    answer = world.investigator.post("/v1/signatures", body)
    assert answer.status_code == 201, answer.text
    return answer


def state(world: World, signature: Response) -> str:
    """As reading it alone says, and as the list says."""
    alone = world.monitor.get(signature.headers["Location"]).json()
    listed = world.monitor.get("/v1/signatures", participant=alone["participant"]).json()["items"]
    assert alone in listed
    told: str = alone["state"]
    return told


def test_a_signature_shows_the_printed_name_the_moment_and_the_meaning(world: World) -> None:
    with_password(world, world.investigator)
    visit = a_visit(world, "A").json()
    for meaning in MEANINGS:
        answer = world.investigator.post("/v1/signatures", signature_of(world, visit, meaning=meaning))
        read = answer.json()
        assert (answer.status_code, read["meaning"], read["signer_name"]) == (201, meaning, "Somebody")
        assert read["signed_at"].endswith("Z")
        assert (read["visit"], read["state"], read["second_factor"]) == (visit["id"], "valid", False)
        assert world.monitor.get(answer.headers["Location"]).json() == read


def test_what_is_signed_is_a_text_that_anybody_can_hash(world: World) -> None:
    visit = a_visit(world, "A").json()
    read = content(world, visit["participant"], visit=visit["id"])
    assert hashlib.sha256(read["content"].encode()).hexdigest() == read["content_sha256"] == content_of(world, visit)
    covered = json.loads(read["content"])
    assert covered["pid"] == visit["participant"].replace("-", "")
    assert covered["visit"]["outcomes"][0]["items"] == madrs(2)["items"]
    assert covered["visit"]["outcomes"][0]["scores"][0]["value"] == 20


def test_an_investigator_lists_the_signatures_that_are_broken(world: World) -> None:
    """Each page is of so many signatures and shows those in the state, so it may be short; `next` leads on."""
    with_password(world, world.investigator)
    visits = [a_visit(world, "A").json() for _ in range(4)]
    made = [world.investigator.post("/v1/signatures", signature_of(world, visit)).json()["id"] for visit in visits]
    for visit in visits[1::2]:
        path = f"/v1/visits/{visit['id']}"
        seen = world.staff_a.get(path).headers["ETag"]
        assert world.staff_a.patch(path, {"occurred_on": "2025-01-26", "reason": "typed wrongly"}, seen).is_success
    for state, expected in (("broken", made[1::2]), ("valid", made[::2])):
        listed, after = [], {}
        while after is not None:
            page = world.monitor.get("/v1/signatures", state=state, limit=1, study=world.study, **after).json()
            assert {item["state"] for item in page["items"]} <= {state}
            listed += [item["id"] for item in page["items"]]
            after = {"cursor": page["next"]} if page["next"] else None
        assert [one for one in reversed(listed) if one in made] == expected
    assert world.monitor.get("/v1/signatures", state="torn").status_code == 422


def test_signing_the_same_again_gives_the_signature_that_is_there(world: World) -> None:
    with_password(world, world.investigator)
    body = signature_of(world, a_visit(world, "A").json())
    first, again = (world.investigator.post("/v1/signatures", body).json() for _ in range(2))
    assert first == again
    other = world.investigator.post("/v1/signatures", {**body, "meaning": "approval"}).json()
    assert other["id"] != first["id"]


def test_content_that_moved_since_it_was_read_is_not_signed(world: World) -> None:
    with_password(world, world.investigator)
    visit = a_visit(world, "A")
    body = signature_of(world, visit.json())
    path, seen = visit.headers["Location"], visit.headers["ETag"]
    amended = world.staff_a.patch(path, {"occurred_on": "2025-01-26", "reason": "typed wrongly"}, seen)
    assert amended.is_success
    answer = world.investigator.post("/v1/signatures", body)
    assert (answer.status_code, answer.json()["code"]) == (409, "content_moved")


def test_the_password_is_asked_for_and_a_wrong_one_is_counted_and_remembered(world: World) -> None:
    with_password(world, world.investigator)
    body = signature_of(world, a_visit(world, "A").json())
    for _ in range(5):
        wrong = world.investigator.post("/v1/signatures", {**body, "password": "not my password"})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "credentials_wrong")
    locked = world.investigator.post("/v1/signatures", body)
    assert (locked.status_code, locked.json()["code"]) == (429, "too_many_attempts")
    assert world.monitor.get("/v1/signatures", participant=body["participant"]).json()["items"] == []
    with world.registry.database.read() as session:
        refused = session.exec(select(AuditEntry.subject_id).where(AuditEntry.action == "signature:refused")).all()
    me = world.investigator.get("/v1/me").json()["id"]
    assert refused.count(me) == 5


def test_somebody_with_a_second_factor_signs_with_it_and_each_code_signs_once(world: World) -> None:
    with_password(world, world.investigator)
    body = signature_of(world, a_visit(world, "A").json())
    secret = world.investigator.post("/v1/me/totp", {"password": PASSWORD}).json()["secret"]
    assert world.investigator.post("/v1/me/totp/confirmation", {"code": totp_code(secret)}).is_success
    without = world.investigator.post("/v1/signatures", body)
    assert (without.status_code, without.json()["code"]) == (401, "totp_needed")
    code = totp_code(secret, steps=1)
    made = world.investigator.post("/v1/signatures", {**body, "totp": code})
    assert (made.status_code, made.json()["second_factor"]) == (201, True)
    again = world.investigator.post("/v1/signatures", {**body, "meaning": "approval", "totp": code})
    assert (again.status_code, again.json()["code"]) == (401, "totp_wrong")


def test_only_people_are_investigators_and_only_at_named_sites(world: World) -> None:
    app = world.admin.post("/v1/clients", {"name": "App", "organisation": "Test"}).json()
    grant = {"role": "investigator", "study": world.study, "sites": ["A"]}
    refused = world.admin.post(f"/v1/clients/{app['client_id']}/grants", grant)
    assert (refused.status_code, refused.json()["code"]) == (422, "client_role_wrong")
    user = world.account(kind=AccountKind.user)
    everywhere = world.admin.post(f"/v1/users/{user.id}/grants", {"role": "investigator", "study": world.study})
    assert (everywhere.status_code, everywhere.json()["code"]) == (422, "grant_scope_wrong")
    assert world.admin.post(f"/v1/users/{user.id}/grants", grant).status_code == 201


def test_a_visit_of_somebody_else_is_not_found_under_a_participant(world: World) -> None:
    mine, other = a_visit(world, "A").json(), a_visit(world, "A").json()
    read = world.staff_a.get("/v1/signatures/content", participant=mine["participant"], visit=other["id"])
    assert (read.status_code, read.json()["code"]) == (404, "not_found")


Change = Callable[[World, Mapping[str, Any]], Response]


def _amend(kind: str, change: Mapping[str, Any], pick: Callable[[Mapping[str, Any]], str]) -> Change:
    def amended(world: World, visit: Mapping[str, Any]) -> Response:
        path = f"/v1/{kind}/{pick(visit)}"
        seen = world.staff_a.get(path).headers["ETag"]
        return world.staff_a.patch(path, {"reason": "typed wrongly", **change}, seen)

    return amended


def _event(world: World, visit: Mapping[str, Any]) -> Response:
    return world.staff_a.post("/v1/adverse-events", world.event(visit["participant"]))


def _status(world: World, visit: Mapping[str, Any]) -> Response:
    body = {"status": "withdrawn", "effective_on": "2025-03-01", "reason": "moved away"}
    return world.staff_a.post(f"/v1/participants/{visit['participant']}/status", body)


def _below(address: str, body: Mapping[str, Any]) -> Change:
    return lambda world, visit: world.staff_a.post(f"/v1/participants/{visit['participant']}/{address}", body)


def _another_visit(world: World, visit: Mapping[str, Any]) -> Response:
    return world.staff_a.post("/v1/visits", world.visit(visit["participant"], "UNS", "2025-02-01"))


def _another_outcome(world: World, visit: Mapping[str, Any]) -> Response:
    body = {"participant": visit["participant"], "visit": visit["id"], "instrument": "WHO5"}
    return world.staff_a.post("/v1/outcomes", {**body, "items": {f"WHO5_{item:02d}": 3 for item in range(1, 6)}})


def _treatment_amended(world: World, visit: Mapping[str, Any]) -> Response:
    """Of the one that the record had before anything was signed."""
    listed = f"/v1/participants/{visit['participant']}/treatments"
    here = f"{listed}/{world.staff_a.get(listed).json()['items'][0]['id']}"
    return world.staff_a.patch(here, TREATMENT_AMENDED, world.staff_a.get(here).headers["ETag"])


CHANGES: Mapping[str, tuple[Change, bool, bool]] = {
    "visit's day": (_amend("visits", {"occurred_on": "2025-01-26"}, lambda visit: visit["id"]), True, True),
    "item": (
        _amend("outcomes", {"items": {"MADRS_01": 4}}, lambda visit: visit["outcomes"][0]["id"]),
        True,
        True,
    ),
    "participant's age": (
        _amend("participants", {"age_at_consent": 52}, lambda visit: visit["participant"]),
        False,
        True,
    ),
    "further outcome": (_another_outcome, True, True),
    "further visit": (_another_visit, False, True),
    "adverse event": (_event, False, True),
    "consent taken back": (_below("withdrawals", WITHDRAWAL), False, True),
    "earlier treatment": (_below("treatments", TREATMENT), False, True),
    "correction of an earlier treatment": (_treatment_amended, False, True),
    "status": (_status, False, True),
}
"""What is changed -> whether it breaks a signature of the visit, and of the participant's record."""


def test_a_dosing_day_is_part_of_what_is_signed(world: World) -> None:
    session = a_session(world)
    read = session.json()
    with_password(world, world.investigator)
    signed = world.investigator.post("/v1/signatures", signature_of(world, _visit(read)))
    assert (signed.status_code, state(world, signed)) == (201, "valid")
    given = world.staff_a.post(f"{session.headers['Location']}/doses", dose())
    assert given.status_code == 201, given.text
    assert state(world, signed) == "broken"
    covered = json.loads(content(world, read["participant"], visit=read["visit"])["content"])["visit"]
    (day,) = covered["dosing_sessions"]
    assert [(one["kind"], one["given_mg"]) for one in day["doses"]] == [("initial", 80)]


def _visit(session: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"id": session["visit"], **{name: session[name] for name in ("participant", "site")}}


@pytest.mark.by_turns  # that content is read back as it was signed is the next test, on both engines
@pytest.mark.parametrize("name", CHANGES)
def test_a_signature_is_broken_by_every_change_of_what_it_covers_and_by_no_other(world: World, name: str) -> None:
    change, breaks_visit, breaks_record = CHANGES[name]
    with_password(world, world.investigator)
    visit = a_visit(world, "A").json()
    assert _below("treatments", TREATMENT)(world, visit).is_success
    of_visit = world.investigator.post("/v1/signatures", signature_of(world, visit))
    of_record = signed_record(world, visit["participant"])
    a_visit(world, "A"), an_event(world, "A")  # somebody else's
    assert (state(world, of_visit), state(world, of_record)) == ("valid", "valid")
    changed = change(world, visit)
    assert changed.is_success, changed.text
    expected = tuple("broken" if breaks else "valid" for breaks in (breaks_visit, breaks_record))
    assert (state(world, of_visit), state(world, of_record)) == expected


def test_a_signature_is_valid_again_once_a_change_is_undone(world: World) -> None:
    signature = a_signature(world, "A")
    path = f"/v1/visits/{signature.json()['visit']}"
    first = world.staff_a.get(path).json()["occurred_on"]
    for day, expected in (("2025-01-26", "broken"), (first, "valid")):
        seen = world.staff_a.get(path).headers["ETag"]
        assert world.staff_a.patch(path, {"occurred_on": day, "reason": "typed wrongly"}, seen).is_success
        assert state(world, signature) == expected


def test_a_withdrawal_that_is_voided_is_no_part_of_what_is_signed(world: World) -> None:
    pid = world.enrolled()
    before = signed_record(world, pid)
    assert _below("withdrawals", WITHDRAWAL)(world, {"participant": pid}).is_success
    meanwhile = signed_record(world, pid)
    assert (state(world, before), state(world, meanwhile)) == ("broken", "valid")
    assert _below("withdrawals/1/voiding", VOIDING)(world, {"participant": pid}).is_success
    assert (state(world, before), state(world, meanwhile)) == ("valid", "broken")


def test_a_signature_is_in_the_trail_with_the_hash_of_what_was_signed(world: World) -> None:
    read = a_signature(world, "A").json()
    with world.registry.database.read() as session:
        entry = session.exec(select(AuditEntry).where(AuditEntry.subject_id == read["id"])).one()
    assert (entry.action, entry.actor) == ("signature:made", read["signer"])
    new = {change["field"]: change["new"] for change in json.loads(entry.changes)}
    assert (new["content_sha256"], new["meaning"]) == (read["content_sha256"], "review")
    assert new["signer_name"] == "Somebody"


def test_a_signature_keeps_the_name_under_which_it_was_given(world: World) -> None:
    signature = a_signature(world, "A")
    account = f"/v1/users/{signature.json()['signer']}"
    seen = world.admin.get(account).headers["ETag"]
    assert world.admin.patch(account, {"display_name": "Renamed", "reason": "married"}, seen).is_success
    assert world.monitor.get(signature.headers["Location"]).json()["signer_name"] == "Somebody"


FORGERIES = (
    "UPDATE signature SET meaning = 'approval' WHERE id = :id",
    "UPDATE signature SET content_sha256 = pid || substr(content_sha256, 13) WHERE id = :id",
    "DELETE FROM signature WHERE id = :id",
)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_database_refuses_to_change_or_remove_a_signature(world: World, forgery: str) -> None:
    read = a_signature(world, "A").json()
    engine = world.registry.database.engine
    shown = read["id"] if engine.dialect.name == "postgresql" else read["id"].replace("-", "")
    with pytest.raises(DBAPIError), Session(engine) as session:
        session.execute(text(forgery), {"id": shown})
    assert world.monitor.get(f"/v1/signatures/{read['id']}").json() == read


def test_somebody_without_a_password_cannot_sign(world: World) -> None:
    account = world.account((Role.investigator, "A"))
    body = signature_of(world, a_visit(world, "A").json())
    caller = Caller(world.registry.client, world.token(account))
    with world.registry.database.read() as session:
        assert session.get_one(Account, account.id).password_hash is None
    answer = caller.post("/v1/signatures", body)
    assert (answer.status_code, answer.json()["code"]) == (401, "credentials_wrong")
