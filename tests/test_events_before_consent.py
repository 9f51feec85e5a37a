"""Adverse events that began before any consent have a finding, whichever of the two is recorded or corrected later."""

from typing import Any
from unittest.mock import patch

import pytest

from app.services.quality import rules_over_time
from app.services.safety.ae_findings import findings
from tests.courses import given
from tests.test_statuses import both, event_of, remarked
from tests.world import World

EARLY = "onset_before_consent"


@pytest.mark.parametrize(
    ("onset", "doubted"),
    [("2019", True), ("2024-12", True), ("2025-01-01", True), ("2025-01-02", False), ("2025-01", False)],
)
def test_an_onset_is_doubted_whose_last_possible_day_lies_before_the_consent(
    world: World, onset: str, doubted: bool
) -> None:
    event = event_of(world, world.enrolled(), onset=onset)
    assert remarked(world, event) == both(EARLY if doubted else None)


def test_an_onset_is_compared_with_a_corrected_day_of_consent(world: World) -> None:
    person = world.staff_a.post("/v1/participants", world.enrolment())
    path, pid = person.headers["Location"], person.json()["pid"]
    event = event_of(world, pid, onset="2025-01-05")

    def corrected(on: str) -> None:
        body = {"consent": {"version": "1", "given_on": on}, "reason": "read in the file"}
        assert world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"]).status_code == 200

    corrected("2025-01-06")
    assert remarked(world, event) == both(EARLY)
    assert world.staff_a.get(event.headers["Location"]).headers["ETag"] == event.headers["ETag"], "nobody edited it"
    corrected("2025-01-05")
    assert remarked(world, event) == both(None)


def test_an_onset_is_compared_with_an_earlier_consent_recorded_later(world: World) -> None:
    pid = world.enrolled()
    event = event_of(world, pid, onset="2025-01-01")
    assert remarked(world, event) == both(EARLY)
    taken = {"scope": "contact", "effective_on": "2025-01-02", "reason": "moved away"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals", taken).status_code == 201
    earlier = {**given("2024-12-20"), "reason": "an older form was found"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", earlier).status_code == 201
    assert remarked(world, event) == both(None)


def test_an_onset_before_a_consent_of_an_unknown_day_is_not_doubted(world: World) -> None:
    pid = world.enrolled(consent={"version": "1", "given_on": None, "scopes": ["data_sharing", "main"]})
    event = event_of(world, pid, onset="2019")
    assert remarked(world, event) == ([], ["consent_date_missing"])


def test_the_daily_pass_finds_an_early_event_from_before_there_was_this_rule(world: World) -> None:
    def without_the_rule(*said: Any) -> Any:
        return [one for one in findings(*said) if one.code != EARLY]

    pid = world.enrolled()
    with patch("app.services.safety.adverse_events.findings", without_the_rule):
        event = event_of(world, pid, onset="2019")
    assert remarked(world, event) == both(None)
    rules_over_time.refresh(world.registry.served)
    assert remarked(world, event) == both(EARLY)
