"""Withdrawals of consent: something was consented to before, and they hold whenever they are recorded."""

from typing import Any

import pytest
from httpx2 import Response

from tests.course_cases import under_amendment
from tests.courses import withdraw
from tests.dosing_cases import DAY, SESSIONS, a_session_to_close, closing, dose, path_of, prepared, start
from tests.test_dosing_corrections import asked, corrected, remarks
from tests.test_voiding import voided
from tests.world import World, protocol_definition

GIVEN_ON = "2025-01-02"
"""When participants consent in these tests."""


def told(world: World, pid: str, scope: str, on: str) -> Response:
    body = {"scope": scope, "effective_on": on, "reason": "told us by telephone"}
    return world.staff_a.post(f"/v1/participants/{pid}/withdrawals", body)


def consents(world: World, pid: str) -> dict[str, Any]:
    state: dict[str, Any] = world.monitor.get(f"/v1/participants/{pid}/consents").json()
    return state


def redated(world: World, pid: str, on: str, version: str = "1") -> Response:
    """The day of a consent, corrected."""
    return corrected(world, f"/v1/participants/{pid}", consent={"version": version, "given_on": on})


def refusal(answer: Response) -> tuple[int, str, list[str]]:
    problem = answer.json()
    return answer.status_code, problem["code"], [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize("scope", ["collection", "contact", "dosing", "sharing"])
def test_nobody_takes_back_what_they_had_not_given_yet(world: World, scope: str) -> None:
    pid = world.enrolled()
    early = told(world, pid, scope, "2025-01-01")
    assert refusal(early) == (422, "withdrawal_before_consent", ["/effective_on"])
    assert consents(world, pid)["withdrawals"] == []
    assert told(world, pid, scope, GIVEN_ON).json()["withdrawn_today"] == [scope]


def test_the_identity_is_erased_whatever_the_day(world: World) -> None:
    assert told(world, world.enrolled(), "identity", "2024-03-01").json()["withdrawn_today"] == ["identity"]


def test_a_consent_of_an_unknown_day_comes_before_every_withdrawal(world: World) -> None:
    pid = world.enrolled(consent={"version": "1", "given_on": None, "scopes": ["data_sharing", "main"]})
    assert told(world, pid, "sharing", "2024-03-01").json()["withdrawn_today"] == ["sharing"]
    assert refusal(redated(world, pid, "2024-03-02")) == (422, "withdrawal_before_consent", ["/consent/given_on"])
    assert redated(world, pid, "2024-03-01").status_code == 200


def test_a_consent_of_an_unknown_day_is_listed_as_the_oldest(world: World) -> None:
    """As it counts, on either engine."""
    pid = under_amendment(world, consent={"version": "1", "given_on": None, "scopes": ["main"]})
    further = {"version": "2", "given_on": "2025-06-01", "scopes": ["main"], "reason": "after the amendment"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", further).status_code == 201
    assert [one["version"] for one in consents(world, pid)["consents"]] == ["1", "2"]


def test_a_consent_is_not_corrected_to_a_day_after_its_withdrawal(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "dosing", "2025-02-20")
    assert refusal(redated(world, pid, "2025-02-21")) == (422, "withdrawal_before_consent", ["/consent/given_on"])
    assert consents(world, pid)["withdrawn_today"] == ["dosing"]
    voided(world, pid)
    assert redated(world, pid, "2025-02-21").status_code == 200


def test_a_further_consent_whose_day_was_mistyped_restores_a_withdrawn_consent(world: World) -> None:
    pid = under_amendment(world)
    withdraw(world, pid, "sharing", "2025-02-20")
    further = {"version": "2", "given_on": "2025-02-01", "scopes": ["data_sharing", "main"], "reason": "asked again"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", further).json()["withdrawn_today"] == ["sharing"]
    assert redated(world, pid, "2025-03-01", "2").status_code == 200
    assert consents(world, pid)["withdrawn_today"] == []


def said(world: World, path: str) -> tuple[list[str], list[str]]:
    """What is remarked on a session's doses, and which data queries are open on them."""
    return remarks(world, path), asked(world, path)


NOTHING: tuple[list[str], list[str]] = ([], [])
WITHOUT_CONSENT = (["dose_without_consent DOSE-CONSENT"], ["dose_without_consent"])


@pytest.mark.parametrize("scope", ["dosing", "collection"])
def test_a_dose_is_flagged_once_an_earlier_withdrawal_of_dosing_is_recorded(world: World, scope: str) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    assert world.staff_a.post(f"{path}/close", closing()).is_success
    withdraw(world, pid, scope, "2025-02-20")
    assert said(world, path) == WITHOUT_CONSENT
    assert world.staff_a.get(path).headers["ETag"] != session.headers["ETag"]
    voided(world, pid)
    assert said(world, path) == NOTHING


@pytest.mark.parametrize(
    ("scope", "on"), [("dosing", DAY), ("collection", DAY), ("dosing", "2025-03-04"), ("contact", "2025-02-20")]
)
def test_a_dose_was_given_with_consent_whatever_was_withdrawn_later_or_besides(
    world: World, scope: str, on: str
) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    withdraw(world, pid, scope, on)
    assert said(world, path) == NOTHING


def test_a_dose_is_flagged_while_its_consent_is_said_to_have_been_given_after_it(world: World) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    for on, says in (("2025-03-04", WITHOUT_CONSENT), (DAY, NOTHING), ("2025-04-20", WITHOUT_CONSENT)):
        assert redated(world, pid, on).status_code == 200
        assert said(world, path) == says, on


def test_a_dose_was_given_with_consent_after_all_once_the_form_is_found(world: World) -> None:
    pid = under_amendment(world)
    session = world.staff_a.post(SESSIONS, start(prepared(world.staff_a, pid)["id"]))
    path = path_of(session)
    withdraw(world, pid, "dosing", "2025-02-20")
    assert world.staff_a.post(f"{path}/doses", dose(deviation_reason="Said to go on")).status_code == 201
    assert said(world, path) == WITHOUT_CONSENT
    found = {"version": "2", "given_on": "2025-02-25", "scopes": ["main"], "reason": "found in the file"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", found).status_code == 201
    assert said(world, path) == NOTHING


def test_a_dose_needs_no_consent_of_a_protocol_that_the_participant_moved_to_afterwards(world: World) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    definition = {**protocol_definition(), "version": "moved"}
    second = {**definition["consents"][0], "version": "2", "valid_from": "2025-02-01"}
    body = {**definition, "consents": [*definition["consents"], second]}
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", body).status_code == 201
    move = {"version": "moved", "reason": "amendment in force"}
    assert world.staff_a.post(f"/v1/participants/{pid}/protocol-version", move).status_code == 200
    withdraw(world, pid, "contact", "2025-02-20")
    assert said(world, path) == NOTHING
