"""Scores of screening visits: if a participant was screened twice, those of the screening that led to the enrolment
count."""

from typing import Any
from uuid import uuid4

import pytest

from app.models.extract import ExtractProfile
from app.privacy import profile
from tests.builds import built_again
from tests.course_cases import screen_failed
from tests.courses import withdraw
from tests.test_aggregate import approved, asked, figure, published, table_rows
from tests.test_course import enrol
from tests.test_extract_windows import visited
from tests.test_outcome_summary import response, totals
from tests.test_screenings import all_met, screened_again
from tests.world import World, protocol_definition


def baseline_at_screening(world: World) -> str:
    """A protocol version whose MADRS is compared with that of the screening."""
    definition, version = protocol_definition(), uuid4().hex
    thresholds = [{**one, "baseline": "SCR"} for one in definition["thresholds"]]
    scales = [one["instrument"] for one in thresholds]
    visits = [{**one, "instruments": scales} if one["code"] == "SCR" else one for one in definition["visits"]]
    body = {**definition, "version": version, "visits": visits, "thresholds": thresholds}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", body)
    assert answer.status_code == 201, answer.text
    return version


def screened_twice(world: World, version: str, first: int | None, second: int | None) -> str:
    """Somebody with these totals at the screening that failed and at the one after it, and 15 later on."""
    pid = screen_failed(world, protocol_version=version)
    visited(world, pid, "SCR", "2025-01-03", outcomes=measured(first))
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    visited(world, pid, "SCR", "2025-06-02", occurrence=2, outcomes=measured(second))
    assert enrol(world, pid, "2025-06-20").status_code == 201
    visited(world, pid, "UNS", "2025-07-01", outcomes=measured(15))
    return pid


def measured(total: int | None) -> list[dict[str, Any]]:
    return [] if total is None else [totals(total)]


def summary(world: World) -> dict[str, Any]:
    read = world.monitor.get("/v1/outcomes/summary", study=world.study, instrument="MADRS").json()
    return {one["visit_code"]: one for one in read["items"]}


def test_scores_are_compared_with_the_screening_that_led_to_the_enrolment(world: World) -> None:
    """From 30 to 15 is a response, and from 20, which screened the participant out, it would be none."""
    pid = screened_twice(world, baseline_at_screening(world), 20, 30)
    told = {(code, value): (change, responds) for code, value, change, responds, *_ in response(world, pid)}
    assert told["UNS", 15] == (-15, True)
    assert (told["SCR", 20][0], told["SCR", 30][0]) == (-10, 0)
    of_study = summary(world)
    assert (of_study["SCR"]["administered"], of_study["SCR"]["value"]["mean"]) == (1, 30)
    assert (of_study["UNS"]["change"]["mean"], of_study["UNS"]["responders"]) == (-15, 1)


def test_without_a_score_of_that_screening_there_is_no_baseline(world: World) -> None:
    pid = screened_twice(world, baseline_at_screening(world), 20, None)
    assert {(code, change) for code, _, change, *_ in response(world, pid)} == {("SCR", None), ("UNS", None)}
    of_study = summary(world)
    assert ("SCR" in of_study, of_study["UNS"]["change"]["n"]) == (False, 0)


def test_a_screening_visit_that_was_missed_leaves_the_baseline_to_the_one_before(world: World) -> None:
    pid = screen_failed(world, protocol_version=baseline_at_screening(world))
    visited(world, pid, "SCR", "2025-01-03", outcomes=measured(20))
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    visited(world, pid, "SCR", None, occurrence=2, status="missed", deviation_reason="measured a week before")
    assert enrol(world, pid, "2025-06-20").status_code == 201
    visited(world, pid, "UNS", "2025-07-01", outcomes=measured(15))
    assert ("UNS", -5) in {(code, change) for code, _, change, *_ in response(world, pid)}
    assert summary(world)["SCR"]["value"]["mean"] == 20


def test_tables_are_of_the_scores_of_the_screening_that_led_to_the_enrolment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables by an earlier version of the profile, that were cited, stay as they were."""
    version = baseline_at_screening(world)
    for _ in range(15):
        screened_twice(world, version, 10, 50)
    with monkeypatch.context() as patch:
        earlier = profile.VERSIONS[ExtractProfile.aggregate, "4"]
        patch.setitem(profile.PROFILES, ExtractProfile.aggregate, earlier)  # type: ignore[arg-type]
        path = asked(world)
        assert approved(world, path).status_code == 201
    assert figure(published(world), "scores_by_visit", "SCR", "MADRS", "mean") == ("50", "N")
    assert figure(table_rows(world, path), "scores_by_visit", "SCR", "MADRS", "mean") == ("10", "N")
    assert built_again(world, path) == "the same rows"


@pytest.mark.parametrize(("twice", "ended", "answer"), [(0, 0, 201), (1, 0, 409), (12, 0, 201), (12, 1, 409)])
def test_tables_of_another_version_that_count_other_scores_of_few_people_are_held_back(
    world: World, monkeypatch: pytest.MonkeyPatch, twice: int, ended: int, answer: int
) -> None:
    """The same people at the same moment: what differs are the scores of those who were screened twice, without those
    whose collection `ended` before the second screening."""
    version = baseline_at_screening(world)
    of_two = [screened_twice(world, version, 10, 50) for _ in range(twice)]
    for pid in of_two[:ended]:
        withdraw(world, pid, "collection", "2025-05-01")
    of_one = [world.enrolment(protocol_version=version) for _ in range(14 - twice)]
    screened = world.uploaded("participants", of_one)
    world.uploaded("visits", [world.visit(pid, "SCR", "2025-01-03", outcomes=measured(30)) for pid in screened])
    with monkeypatch.context() as patch:
        earlier = profile.VERSIONS[ExtractProfile.aggregate, "4"]
        patch.setitem(profile.PROFILES, ExtractProfile.aggregate, earlier)  # type: ignore[arg-type]
        first, again = asked(world), asked(world)
        assert [approved(world, path).status_code for path in (first, again)] == [201, 201]
    path = asked(world)
    told = approved(world, path)
    assert told.status_code == answer, told.text
    if answer == 409:
        assert (told.json()["code"], told.json()["extracts"]) == ("differencing_risk", [first, again])
        accepted = {"decision": "approve", "reason": "the same tables by the rules of today", "accept_difference": True}
        assert world.custodian.post(f"{path}/approval", accepted).status_code == 201
