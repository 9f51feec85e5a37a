"""Protocol amendments: from when one is valid, and who has to consent again."""

from typing import Any

import pytest
from httpx2 import Response

from tests.dosing_cases import SESSIONS, prepared, start
from tests.world import World, protocol_definition


def amend(world: World, valid_from: str, *, code: str = "2", **of_amendment: Any) -> Response:
    """Post a version of the study that holds from a day on, with a consent form of its own."""
    plan = protocol_definition()
    form = {**plan["consents"][0], "version": code, "valid_from": valid_from}
    made = {"version": code, "valid_from": valid_from, "summary": "A third questionnaire", "source": "made up"}
    body = {
        **plan,
        "version": code,
        "consents": [*plan["consents"], form],
        "amendments": [{**made, **of_amendment}],
    }
    return world.admin.post(f"/v1/studies/{world.study}/protocols", body)


def moved(world: World, pid: str, version: str = "2") -> Response:
    body = {"version": version, "reason": "amendment in force"}
    return world.staff_a.post(f"/v1/participants/{pid}/protocol-version", body)


@pytest.mark.parametrize(("enrolled_on", "version"), [("2025-01-31", "1"), ("2025-02-01", "2"), (None, "2")])
def test_an_enrolment_has_the_newest_version_that_was_valid_on_its_day(
    world: World, enrolled_on: str | None, version: str
) -> None:
    """Also one that is told after the amendment, by an app that was offline over it."""
    assert amend(world, "2025-02-01").status_code == 201
    assert amend(world, "2097-06-01", code="3").status_code == 201
    person = world.staff_a.post("/v1/participants", world.enrolment(enrolled_on=enrolled_on))
    assert (person.status_code, person.json()["protocol_version"]) == (201, version)


def test_nobody_is_enrolled_under_an_amendment_of_a_later_day(world: World) -> None:
    assert amend(world, "2025-02-01").status_code == 201
    asked = {"protocol_version": "2", "screened_on": "2025-01-02"}
    for on, status in (("2025-01-31", 409), ("2025-02-01", 201)):
        answer = world.staff_a.post("/v1/participants", world.enrolment(**asked, enrolled_on=on))
        assert answer.status_code == status, answer.text
    screened = world.enrolled(enrolled_on=None)
    for on, status in (("2025-01-31", 409), ("2025-02-01", 201)):
        body = {"status": "enrolled", "effective_on": on, "reason": "all criteria met"}
        answer = world.staff_a.post(f"/v1/participants/{screened}/status", body)
        assert answer.status_code == status, answer.text


def test_no_participant_follows_an_amendment_before_it_is_valid(world: World) -> None:
    pid = world.enrolled()
    assert amend(world, "2097-06-01").status_code == 201
    early = moved(world, pid)
    assert (early.status_code, early.json()["code"]) == (409, "protocol_version_not_in_force")
    new = world.staff_a.post("/v1/participants", world.enrolment(protocol_version="2"))
    assert (new.status_code, new.json()["code"]) == (409, "protocol_version_not_in_force")


def reconsent_to(world: World, pid: str) -> list[str]:
    """As both answers say that tell of it."""
    of_schedule = world.staff_a.get(f"/v1/participants/{pid}/schedule").json()["reconsent_to"]
    assert world.staff_a.get(f"/v1/participants/{pid}/consents").json()["reconsent_to"] == of_schedule
    return list(of_schedule)


def dosed(world: World, pid: str) -> Response:
    return world.staff_a.post(SESSIONS, start(prepared(world.staff_a, pid)["id"]))


def test_a_participant_whom_an_amendment_asks_consents_again_before_a_dose(world: World) -> None:
    """Whichever version they go by: the form is of the amendment, not of the move."""
    pid = world.enrolled()
    assert amend(world, "2025-02-01", reconsent=["enrolled", "active"], consent="2").status_code == 201
    assert reconsent_to(world, pid) == ["2"]
    refused = dosed(world, pid)
    assert (refused.status_code, "DOSE-CONSENT" in refused.text) == (409, True)
    assert moved(world, pid).status_code == 200
    form = {"version": "2", "given_on": "2025-03-01", "scopes": ["main"], "reason": "asked again"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", form).status_code == 201
    visit = world.staff_a.get("/v1/visits", participant=pid, visit_code="DOS1").json()["items"][0]
    assert (reconsent_to(world, pid), world.staff_a.post(SESSIONS, start(visit["id"])).status_code) == ([], 201)


@pytest.mark.parametrize("asked", [{}, {"reconsent": ["screened"], "consent": "2"}], ids=["nobody", "the screened"])
def test_a_participant_whom_an_amendment_does_not_ask_is_dosed_under_the_form_they_signed(
    world: World, asked: dict[str, Any]
) -> None:
    pid = world.enrolled()
    assert amend(world, "2025-02-01", **asked).status_code == 201
    assert moved(world, pid).status_code == 200
    assert (reconsent_to(world, pid), dosed(world, pid).status_code) == ([], 201)


def test_a_participant_enrolled_after_an_amendment_signs_its_form(world: World) -> None:
    assert amend(world, "2025-01-02", reconsent=["active"], consent="2").status_code == 201
    pid = world.enrolled()
    assert (reconsent_to(world, pid), dosed(world, pid).status_code) == (["2"], 409)


@pytest.mark.parametrize(
    ("version", "given_on", "findings"),
    [
        ("1", "2025-01-31", []),
        ("1", "2025-02-01", ["consent_not_in_force"]),
        ("2", "2025-01-31", ["consent_not_in_force"]),
        ("2", "2025-02-01", []),
    ],
)
def test_a_consent_on_a_form_of_another_time_is_kept_with_a_finding(
    world: World, version: str, given_on: str, findings: list[str]
) -> None:
    assert amend(world, "2025-02-01", reconsent=["active"], consent="2").status_code == 201
    signed = {"version": version, "given_on": given_on, "scopes": ["main"]}
    days = {"screened_on": given_on, "enrolled_on": "2025-02-20"}
    person = world.staff_a.post("/v1/participants", world.enrolment(consent=signed, **days))
    assert (person.status_code, [one["code"] for one in person.json()["findings"]]) == (201, findings)


def test_a_form_of_another_time_is_no_longer_doubted_once_its_day_is_corrected(world: World) -> None:
    assert amend(world, "2025-02-01", reconsent=["active"], consent="2").status_code == 201
    signed = {"version": "2", "given_on": "2025-01-10", "scopes": ["main"]}
    person = world.staff_a.post("/v1/participants", world.enrolment(consent=signed, enrolled_on="2025-02-20"))
    assert [one["code"] for one in person.json()["findings"]] == ["consent_not_in_force"]
    body = {"consent": {"version": "2", "given_on": "2025-02-10"}, "reason": "found on the paper form"}
    answer = world.staff_a.patch(person.headers["Location"], body, person.headers["ETag"])
    assert answer.json()["findings"] == []


def test_a_version_of_another_protocol_is_refused(world: World) -> None:
    other = {**protocol_definition(), "version": "2", "code": "another-study"}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", other)
    assert (answer.status_code, answer.json()["code"]) == (422, "protocol_refused")
    assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [("/code", "another_protocol")]
