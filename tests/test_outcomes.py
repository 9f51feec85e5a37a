"""Outcomes: scores are the server's own, and a correction computes them again."""

from typing import Any

import pytest
from httpx2 import Response

from app import pid
from app.models.account import Role
from tests.courses import withdraw
from tests.test_bulk import line, results, sent
from tests.world import World, madrs


def recorded(world: World, *values: int) -> tuple[str, str, dict]:  # type: ignore[type-arg]
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled())).json()
    body = {"participant": visit["participant"], "visit": visit["id"], **madrs(*values)}
    answer = world.staff_a.post("/v1/outcomes", body)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"], answer.headers["ETag"], answer.json()


def total(outcome: dict) -> tuple[object, object, object]:  # type: ignore[type-arg]
    score = next(item for item in outcome["scores"] if item["name"] == "total")
    return score["value"], score["band"], score["reason"]


def test_an_outcome_can_follow_its_visit(world: World) -> None:
    location, _, outcome = recorded(world, 2)
    assert total(outcome) == (20, "moderate", None)
    assert world.monitor.get(location).json() == outcome


def test_a_missing_item_gives_no_total_and_says_so(world: World) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled())).json()
    given = madrs(3)
    given["items"]["MADRS_10"] = None
    del given["items"]["MADRS_01"]
    outcome = world.staff_a.post(
        "/v1/outcomes", {"participant": visit["participant"], "visit": visit["id"], **given}
    ).json()
    value, band, reason = total(outcome)
    assert (value, band) == (None, None)
    assert "2" in str(reason)
    assert outcome["items"]["MADRS_01"] is None


def test_a_corrected_item_moves_the_score_and_leaves_its_history(world: World) -> None:
    location, etag, _ = recorded(world, 3)
    body = {"items": {"MADRS_02": 1}, "reason": "Wrong column read"}
    answer = world.staff_a.patch(location, body, etag)
    assert answer.status_code == 200
    outcome = answer.json()
    assert (total(outcome)[0], outcome["version"], outcome["items"]["MADRS_02"]) == (28, 2, 1)
    assert world.monitor.get(location).json() == outcome


def test_a_correction_out_of_range_changes_nothing(world: World) -> None:
    location, etag, outcome = recorded(world, 3)
    answer = world.staff_a.patch(location, {"items": {"MADRS_02": 9}, "reason": "Wrong column read"}, etag)
    assert (answer.status_code, answer.json()["code"]) == (422, "items_out_of_range")
    assert world.staff_a.get(location).json() == outcome


def test_an_instrument_is_administered_once_at_a_visit(world: World) -> None:
    _, _, outcome = recorded(world, 1)
    body = {"participant": outcome["participant"], "visit": outcome["visit"], **madrs(2)}
    answer = world.staff_a.post("/v1/outcomes", body)
    assert (answer.status_code, answer.json()["code"]) == (409, "outcome_already_recorded")


def test_an_outcome_needs_a_visit_that_took_place_of_the_same_person(world: World) -> None:
    missed = world.visit(world.enrolled(), "PREP1", None, status="missed", deviation_reason="Ill with a cold")
    visit = world.staff_a.post("/v1/visits", missed).json()
    body = {"participant": visit["participant"], "visit": visit["id"], **madrs(2)}
    assert world.staff_a.post("/v1/outcomes", body).json()["code"] == "visit_not_held"
    other = world.staff_a.post("/v1/outcomes", {**body, "participant": world.enrolled()})
    assert (other.status_code, other.json()["code"]) == (422, "visit_of_another_participant")


def test_an_outcome_is_of_somebody_at_whose_site_the_visit_is(world: World) -> None:
    everywhere = world.caller((Role.site_staff, None))
    visit = everywhere.post("/v1/visits", world.visit(world.enrolled())).json()
    at_b, nobody = world.enrolled("B"), pid.display(pid.draw())
    for participant in (at_b, nobody):
        answer = everywhere.post("/v1/outcomes", {"participant": participant, "visit": visit["id"], **madrs(2)})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_line_of_a_visit_at_another_site_is_refused_as_alone_whatever_other_lines_name(world: World) -> None:
    everywhere = world.caller((Role.site_staff, None))
    people = {site: world.enrolled(site) for site in "AB"}
    visits = {site: everywhere.post("/v1/visits", world.visit(pid)).json()["id"] for site, pid in people.items()}
    lines = [
        line({"participant": people[whose], "visit": visits[where], **madrs(2)})
        for whose, where in ("AA", "AB", "BB", "BA")
    ]
    told = results(sent(everywhere, "outcomes", lines))
    assert [one["status"] for one in told] == [201, 404, 201, 404]
    assert {one["problem"]["code"] for one in told if "problem" in one} == {"not_found"}


def test_outcomes_are_found_by_instrument_and_visit(world: World) -> None:
    _, _, outcome = recorded(world, 1)
    pid = outcome["participant"]
    assert len(world.monitor.get("/v1/outcomes", participant=pid, instrument="MADRS").json()["items"]) == 1
    assert world.monitor.get("/v1/outcomes", participant=pid, instrument="ISI").json()["items"] == []
    assert len(world.monitor.get("/v1/outcomes", participant=pid, visit_code="BL").json()["items"]) == 1
    assert world.monitor.get("/v1/outcomes", participant=pid, visit_code="PRIM").json()["items"] == []


def measured(world: World, pid: str, on: str) -> dict[str, tuple[int, str | None]]:
    """What the three ways answer by which an outcome of this day comes to the registry."""
    bodies = [world.visit(pid, "UNS", "2025-01-31", occurrence=number) for number in (1, 2, 3)]
    outcome: dict[str, Any] = {**madrs(1), "collected_on": on}
    first, second = (world.staff_a.post("/v1/visits", body).json() for body in bodies[:2])
    alone = {"participant": pid, "visit": first["id"]}
    kept = world.staff_a.post("/v1/outcomes", {"participant": pid, "visit": second["id"], **madrs(1)})
    path, etag = kept.headers["Location"], kept.headers["ETag"]
    answers: dict[str, Response] = {
        "with the visit": world.staff_a.post("/v1/visits", {**bodies[2], "outcomes": [outcome]}),
        "alone": world.staff_a.post("/v1/outcomes", {**alone, **outcome}),
        "by a correction": world.staff_a.patch(path, {"collected_on": on, "reason": "typed wrongly"}, etag),
    }
    return {way: (answer.status_code, answer.json().get("code")) for way, answer in answers.items()}


@pytest.mark.parametrize(
    ("on", "status", "code"),
    [
        ("2025-02-01", None, "collection_withdrawn"),
        ("2025-02-02", "died", "participant_left"),
        ("2025-02-02", "withdrawn", "participant_left"),
        ("1950-06-01", None, "consent_missing"),
    ],
)
def test_nothing_is_measured_on_a_day_on_which_no_visit_would_be_taken(
    world: World, on: str, status: str | None, code: str
) -> None:
    pid = world.enrolled()
    if status is None:
        withdraw(world, pid, "collection", "2025-02-01")
    else:
        left = {"status": status, "effective_on": "2025-02-01", "reason": "told us by telephone"}
        assert world.staff_a.post(f"/v1/participants/{pid}/status", left).status_code == 201
    assert set(measured(world, pid, on).values()) == {(409, code)}
