"""What participants take back: it has been given before, and holds whenever it is told."""

from typing import Any

import pytest
from httpx2 import Response

from tests.course_cases import under_amendment
from tests.courses import withdraw
from tests.test_dosing_corrections import corrected
from tests.test_voiding import voided
from tests.world import World

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


def test_a_consent_of_an_unknown_day_was_given_before_anything_was_taken_back(world: World) -> None:
    pid = world.enrolled(consent={"version": "1", "given_on": None, "scopes": ["data_sharing", "main"]})
    assert told(world, pid, "sharing", "2024-03-01").json()["withdrawn_today"] == ["sharing"]
    assert refusal(redated(world, pid, "2024-03-02")) == (422, "withdrawal_before_consent", ["/consent/given_on"])
    assert redated(world, pid, "2024-03-01").status_code == 200


def test_a_consent_is_not_corrected_to_a_day_after_it_was_taken_back(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "dosing", "2025-02-20")
    assert refusal(redated(world, pid, "2025-02-21")) == (422, "withdrawal_before_consent", ["/consent/given_on"])
    assert consents(world, pid)["withdrawn_today"] == ["dosing"]
    voided(world, pid)
    assert redated(world, pid, "2025-02-21").status_code == 200


def test_a_further_consent_whose_day_was_mistyped_gives_anew_what_was_taken_back(world: World) -> None:
    pid = under_amendment(world)
    withdraw(world, pid, "sharing", "2025-02-20")
    further = {"version": "2", "given_on": "2025-02-01", "scopes": ["data_sharing", "main"], "reason": "asked again"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", further).json()["withdrawn_today"] == ["sharing"]
    assert redated(world, pid, "2025-03-01", "2").status_code == 200
    assert consents(world, pid)["withdrawn_today"] == []
