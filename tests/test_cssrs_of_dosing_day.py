"""The C-SSRS of a dosing day: once before the dose and again before the participant may leave."""

from typing import Any

import pytest

from tests.dosing_cases import SIGNALS, a_session, after_dose, closing, cssrs, dose, path_of, vitals
from tests.test_rules_over_time import missing
from tests.world import World


class Day:
    """A session that lacks nothing but its questionnaires."""

    def __init__(self, world: World) -> None:
        self.world, self.staff, session = world, world.staff_a, a_session(world)
        self.path, self.pid, self.visit = path_of(session), session.json()["participant"], session.json()["visit"]
        for below, body in (("doses", dose()), ("vitals", vitals("END", "17:00"))):
            assert self.staff.post(f"{self.path}/{below}", body).status_code == 201

    def given(self, form: dict[str, Any]) -> Any:
        answer = self.staff.post("/v1/outcomes", {"participant": self.pid, "visit": self.visit, **form})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def lacking(self) -> list[str]:
        return [one["rule"] for one in self.staff.get(self.path).json()["lacking"]]

    def raised(self) -> list[tuple[str, str, list[str]]]:
        items = self.staff.get(SIGNALS, participant=self.pid).json()["items"]
        return [(one["source"]["id"], one["rule"], one["because"]) for one in items]


def test_the_form_of_before_the_dose_does_not_let_a_participant_leave_and_the_one_after_does(world: World) -> None:
    day = Day(world)
    before = day.given(cssrs())
    assert "DISCHARGE-CSSRS" in day.lacking()
    assert missing(world, day.pid, "DOS1") == ["CSSRS_SLV_END", "SEVAS_DOSE", "SEVAS_END"]
    after = day.given(after_dose())
    assert "DISCHARGE-CSSRS" not in day.lacking()
    assert missing(world, day.pid, "DOS1") == ["SEVAS_DOSE", "SEVAS_END"]
    assert before["id"] != after["id"]
    assert day.staff.post(f"{day.path}/close", closing()).status_code == 201


@pytest.mark.parametrize("answer", [4, 6, 10])
def test_what_is_said_after_the_dose_raises_the_signal_that_it_raises_before(world: World, answer: int) -> None:
    day = Day(world)
    before, after = day.given(cssrs(answer)), day.given(after_dose(answer))
    raised = {outcome: (rule, because) for outcome, rule, because in day.raised()}
    assert raised[after["id"]] == raised[before["id"]]
    assert raised[after["id"]][1] == [f"CSSRS_SLV_{answer:02d}"]


def test_a_yes_that_is_corrected_into_the_form_after_the_dose_raises_its_signal(world: World) -> None:
    day = Day(world)
    path = f"/v1/outcomes/{day.given(after_dose())['id']}"
    assert day.raised() == []
    change = {"reason": "misread", "items": {"CSSRS_SLV_05": 1}}
    assert day.staff.patch(path, change, day.staff.get(path).headers["ETag"]).status_code == 200
    assert [rule for _, rule, _ in day.raised()] == ["CSSRS-IDEATION"]


BARELY = {
    "one answer of seventeen": {"CSSRS_SLV_17": 0},
    "ideation alone": {"CSSRS_SLV_01": 0, "CSSRS_SLV_02": 0},
    "behaviour alone": {f"CSSRS_SLV_{number:02d}": 0 for number in range(6, 11)},
    "thoughts, and nobody asked about intent": {**after_dose(2)["items"], "CSSRS_SLV_04": None, "CSSRS_SLV_05": None},
}


@pytest.mark.by_turns
@pytest.mark.parametrize("why", BARELY)
def test_no_discharge_by_a_form_without_ideation_or_behaviour(world: World, why: str) -> None:
    day = Day(world)
    form = day.given({**after_dose(), "items": BARELY[why]})
    refused = day.staff.post(f"{day.path}/close", closing())
    assert [error["code"] for error in refused.json()["errors"]] == ["DISCHARGE-CSSRS"]
    assert "CSSRS_SLV_END" in missing(world, day.pid, "DOS1")
    path = f"/v1/outcomes/{form['id']}"
    change = {"reason": "asked before leaving", "items": after_dose()["items"]}
    assert day.staff.patch(path, change, day.staff.get(path).headers["ETag"]).status_code == 200
    assert day.staff.post(f"{day.path}/close", closing()).status_code == 201


def test_a_session_closed_by_a_form_can_still_be_corrected_after_answers_were_withdrawn(world: World) -> None:
    day = Day(world)
    path = f"/v1/outcomes/{day.given(after_dose())['id']}"
    assert day.staff.post(f"{day.path}/close", closing()).status_code == 201
    change = {"reason": "not asked", "items": {"CSSRS_SLV_01": None}}
    assert day.staff.patch(path, change, day.staff.get(path).headers["ETag"]).status_code == 200
    seen = day.staff.get(day.path)
    assert seen.json()["lacking"] == []
    corrected = day.staff.patch(day.path, {"reason": "misread", "staff": ["T01", "T03"]}, seen.headers["ETag"])
    assert corrected.status_code == 200, corrected.text
