"""A withdrawal of consent that the site recorded in error: voided, still to be read, and without effect anywhere."""

import json
from typing import Any

import pytest
from httpx2 import Response
from sqlmodel import col, select

from app.models.account import Role
from app.models.audit import AuditEntry
from tests.course_cases import WITHDRAWAL, withdrawn
from tests.courses import withdraw
from tests.dosing_cases import DAY, SESSIONS, a_session, dose, path_of, prepared, start
from tests.test_changes import feed
from tests.test_dosing_corrections import asked, remarks
from tests.test_sync import act, sync
from tests.test_trail_walls import MISTAKEN, refusal
from tests.world import Caller, World

WHY = {"reason": "The letter was of another participant"}


def void(world: World, pid: str, number: int = 1, caller: Caller | None = None) -> Response:
    return (caller or world.staff_a).post(f"/v1/participants/{pid}/withdrawals/{number}/voiding", WHY)


def voided(world: World, pid: str, number: int = 1) -> dict[str, Any]:
    answer = void(world, pid, number)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_voided_withdrawal_holds_no_more_and_is_still_shown_with_when_and_why(world: World) -> None:
    pid = world.enrolled()
    before = withdraw(world, pid, "sharing", "2025-02-01").json()
    assert (before["scopes_today"], before["withdrawn_today"]) == (["main"], ["sharing"])
    told = voided(world, pid)
    assert (told["scopes_today"], told["withdrawn_today"]) == (["data_sharing", "main"], [])
    [stated], [now] = before["withdrawals"], told["withdrawals"]
    assert now == {**stated, "voided_at": now["voided_at"], "voiding_reason": WHY["reason"]}
    assert (stated["voided_at"], now["voided_at"] > now["recorded_at"]) == (None, True)
    assert world.monitor.get(f"/v1/participants/{pid}/consents").json() == told


def test_data_are_taken_again_once_the_withdrawal_of_their_collection_is_voided(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "collection", "2025-02-01")
    visit = world.visit(pid, "UNS", "2025-02-02")
    assert world.staff_a.post("/v1/visits", visit).json()["code"] == "collection_withdrawn"
    voided(world, pid)
    assert world.staff_a.post("/v1/visits", visit).status_code == 201


@pytest.mark.parametrize("scope", ["dosing", "collection"])
def test_a_dosing_day_begins_once_the_withdrawal_is_voided(world: World, scope: str) -> None:
    pid = world.enrolled()
    visit = prepared(world.staff_a, pid)
    withdraw(world, pid, scope, "2025-03-03")
    assert world.staff_a.post(SESSIONS, start(visit["id"])).json()["code"] == "dosing_not_allowed"
    voided(world, pid)
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201


def test_a_dose_recorded_meanwhile_was_given_with_consent_after_all(world: World) -> None:
    session = a_session(world)
    path, pid = path_of(session), session.json()["participant"]
    withdraw(world, pid, "dosing", DAY)
    withdraw(world, pid, "collection", DAY)
    assert world.staff_a.post(f"{path}/doses", dose(deviation_reason="Given before we were told")).status_code == 201
    voided(world, pid)
    assert (remarks(world, path), asked(world, path)) == (
        *(["dose_without_consent DOSE-CONSENT"], ["dose_without_consent"]),
    ), "it was taken back twice"
    seen = world.staff_a.get(path).headers["ETag"]
    voided(world, pid, 2)
    assert (remarks(world, path), asked(world, path)) == ([], [])
    assert world.staff_a.get(path).headers["ETag"] != seen


def test_only_the_withdrawal_that_is_named_is_voided(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "collection", "2025-02-01")
    withdraw(world, pid, "collection", "2025-03-01")
    assert voided(world, pid)["withdrawn_today"] == ["collection"]
    assert world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-02-28")).status_code == 201
    refused = world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-03-01", occurrence=2))
    assert refused.json()["code"] == "collection_withdrawn"


def test_a_withdrawal_with_the_right_day_is_recorded_beside_the_voided_one(world: World) -> None:
    pid = withdrawn(world)
    voided(world, pid)
    again = withdraw(world, pid, "contact", "2025-04-01").json()
    assert [(one["number"], one["voided_at"] is None) for one in again["withdrawals"]] == [(1, False), (2, True)]
    assert again["withdrawn_today"] == ["contact"]


def test_a_withdrawal_is_voided_once(world: World) -> None:
    pid = withdrawn(world)
    first = voided(world, pid)
    again = void(world, pid)
    assert (again.status_code, again.json()["code"]) == (409, "withdrawal_voided")
    assert world.staff_a.get(f"/v1/participants/{pid}/consents").json() == first


def test_a_withdrawal_of_the_identity_stays_as_the_label_is_gone(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "identity", "2025-03-01")
    refused = void(world, pid)
    assert (refused.status_code, refused.json()["code"]) == (409, "identity_erased")
    assert "erased for good" in refused.json()["detail"]
    assert world.staff_a.get(f"/v1/participants/{pid}/consents").json()["withdrawn_today"] == ["identity"]


def test_another_sites_withdrawal_and_one_that_nobody_recorded_are_not_there(world: World) -> None:
    pid = withdrawn(world)
    for answer in (void(world, pid, caller=world.staff_b), void(world, pid, 2), void(world, pid, 10**30)):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert world.staff_a.get(f"/v1/participants/{pid}/consents").json()["withdrawn_today"] == ["contact"]


def test_the_trail_and_the_feed_have_the_voiding_and_keep_the_statement(world: World) -> None:
    pid = withdrawn(world)
    _, place = feed(world.staff_a)
    me = world.staff_a.get("/v1/me").json()["id"]
    told = voided(world, pid)
    [change], _ = feed(world.staff_a, place)
    assert (change["action"], change["subject_type"]) == ("consent:withdrawal-voided", "withdrawal")
    assert change["fields"] == ["voided_at", "voided_by", "voiding_reason"]
    mine = {"subject_type": "withdrawal", "subject_id": f"{pid.replace('-', '')}/1"}
    with world.registry.database.read() as session:
        made, put_right = session.exec(select(AuditEntry).filter_by(**mine).order_by(col(AuditEntry.seq))).all()
    new = {one["field"]: one["new"] for one in json.loads(put_right.changes)}
    assert (put_right.actor, put_right.reason, new["voided_by"]) == (me, WHY["reason"], me)
    assert new["voiding_reason"] == told["withdrawals"][0]["voiding_reason"]
    stated = {one["field"]: one["new"] for one in json.loads(made.changes)}
    assert (made.action, stated["scope"], made.reason) == ("consent:withdrawn", "contact", WITHDRAWAL["reason"])


def test_a_voiding_without_a_reason_is_refused(world: World) -> None:
    pid = withdrawn(world)
    refused = world.staff_a.post(f"/v1/participants/{pid}/withdrawals/1/voiding", {})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/reason")


def test_an_act_of_voiding_is_carried_by_sync(world: World) -> None:
    pid = withdrawn(world)
    one = act(f"/v1/participants/{pid}/withdrawals/1/voiding", WHY)
    assert sync(world.staff_a, one)[one["id"]]["result"] == "created"
    assert world.staff_a.get(f"/v1/participants/{pid}/consents").json()["withdrawn_today"] == []


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE withdrawal SET scope = 'sharing'",
        "UPDATE withdrawal SET effective_on = '2030-01-01'",
        "DELETE FROM withdrawal",
    ],
)
def test_the_servers_own_connection_cannot_rewrite_a_withdrawal(world: World, attack: str) -> None:
    withdrawn(world)
    said = refusal(world, world.request(world.account((Role.site_staff, "A"))), attack)
    assert not MISTAKEN.search(said)
