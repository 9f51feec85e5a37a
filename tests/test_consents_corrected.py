"""What a site entered wrongly of a consent is put right: scopes that the participant ticked otherwise are corrected."""

from typing import Any

import pytest
from httpx2 import Response

from tests.course_cases import under_amendment
from tests.courses import held, withdraw
from tests.test_audit_entries import rows
from tests.test_data_cuts import cut, extract, tables, verdict
from tests.test_dosing_corrections import corrected
from tests.test_signatures import signed_record, state
from tests.test_withdrawals import consents, refusal
from tests.world import World

ON = "2025-01-02"
LONG = ["data_sharing", "long_follow_up", "main"]


def put_right(world: World, pid: str, scopes: list[str], **which: Any) -> Response:
    return corrected(world, f"/v1/participants/{pid}", consent={"version": "1", "scopes": scopes, **which})


def test_a_box_that_was_overlooked_at_the_enrolment_lets_the_long_follow_up_be_recorded(world: World) -> None:
    pid = world.enrolled()
    held(world, pid, "BL", "2025-01-25")
    visit = world.visit(pid, "FU7M", "2025-08-26")
    assert world.staff_a.post("/v1/visits", visit).json()["code"] == "consent_missing"
    assert put_right(world, pid, ["main", "long_follow_up", "data_sharing"]).status_code == 200
    (one,) = consents(world, pid)["consents"]
    assert (one["version"], one["number"], one["given_on"], one["scopes"]) == ("1", 1, ON, LONG)
    assert world.staff_a.post("/v1/visits", visit).status_code == 201


def test_the_correction_stays_in_the_trail_with_what_was_there_before(world: World) -> None:
    pid = world.enrolled()
    assert put_right(world, pid, ["main"]).json()["version"] == 2
    told = rows(world.monitor, action="consent:amended", participant=pid)
    assert {one["field"]: (one["old"], one["new"], one["reason"]) for one in told} == {
        "scopes": (["data_sharing", "main"], ["main"], "read in the source"),
        "data_sharing": (True, False, "read in the source"),
    }


def test_day_and_scopes_are_corrected_together_or_each_alone(world: World) -> None:
    pid = world.enrolled()
    assert put_right(world, pid, LONG, given_on="2025-01-03").status_code == 200
    assert put_right(world, pid, ["main"]).status_code == 200
    (one,) = consents(world, pid)["consents"]
    assert (one["given_on"], one["scopes"]) == ("2025-01-03", ["main"])
    neither = corrected(world, f"/v1/participants/{pid}", consent={"version": "1"})
    assert refusal(neither) == (422, "validation_failed", ["/consent"])


def test_what_is_there_already_is_no_correction(world: World) -> None:
    pid = world.enrolled()
    assert put_right(world, pid, ["main", "data_sharing"], given_on=ON).json()["version"] == 1
    assert rows(world.monitor, action="consent:amended", participant=pid) == []


@pytest.mark.parametrize(
    ("scopes", "code", "pointer"),
    [
        (["data_sharing"], "enrolment_contradicts_protocol", "/consent/scopes"),
        (["main", "tissue"], "enrolment_contradicts_protocol", "/consent/scopes"),
        ([], "validation_failed", "/consent/scopes"),
    ],
)
def test_the_scopes_are_those_of_the_form(world: World, scopes: list[str], code: str, pointer: str) -> None:
    pid = world.enrolled()
    assert refusal(put_right(world, pid, scopes)) == (422, code, [pointer])
    assert consents(world, pid)["scopes_today"] == ["data_sharing", "main"]


def test_the_form_of_an_amendment_is_corrected_by_its_version(world: World) -> None:
    pid = under_amendment(world)
    further = {"version": "2", "given_on": "2025-06-01", "scopes": ["main"], "reason": "after the amendment"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", further).status_code == 201
    assert put_right(world, pid, LONG, version="2").status_code == 200
    assert consents(world, pid)["scopes_today"] == LONG


def test_a_signed_record_is_broken_by_the_correction(world: World) -> None:
    pid = world.enrolled()
    signed = signed_record(world, pid)
    assert put_right(world, pid, LONG).status_code == 200
    assert state(world, signed) == "broken"


def test_a_withdrawal_holds_over_the_scopes_that_are_put_right(world: World) -> None:
    pid = world.enrolled(consent={"version": "1", "given_on": ON, "scopes": ["main"]})
    withdraw(world, pid, "sharing", "2025-02-20")
    assert put_right(world, pid, LONG).status_code == 200
    assert consents(world, pid)["scopes_today"] == ["long_follow_up", "main"]


def test_later_extracts_have_participants_who_always_shared_and_none_who_never_did(world: World) -> None:
    """Of an earlier cut too, as after the voiding of a withdrawal: an error was never true."""
    never = world.enrolled(age_at_consent=30)
    overlooked = world.enrolled(age_at_consent=60, consent={"version": "1", "given_on": ON, "scopes": ["main"]})
    name, before = cut(world), extract(world)
    assert put_right(world, never, ["main"]).status_code == 200
    assert put_right(world, overlooked, LONG).status_code == 200
    assert verdict(world, before) == "the same rows"
    told = [tables(world, path)["participants.csv"] for path in (before, extract(world, cut=name))]
    assert [[row["age_group"] for row in people] for people in told] == [["30"], ["60"]]


def test_a_closed_record_is_opened_first(world: World) -> None:
    pid = world.enrolled()
    lock = {"kind": "freeze", "study": world.study, "site": "A", "participant": pid, "reason": "before the cut"}
    assert world.monitor.post("/v1/locks", lock).status_code == 201
    assert put_right(world, pid, LONG).json()["code"] == "data_locked"
