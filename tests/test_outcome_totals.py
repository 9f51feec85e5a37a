"""Totals that clients send, historical totals without items, and scoring again."""

import json
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response
from sqlmodel import col, select

from app.models.audit import AuditEntry
from tests.world import World, madrs, protocol_definition

HISTORICAL = ["MADRS", "SHEEHAN_SDS"]


def post(world: World, **outcome: Any) -> Response:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled())).json()
    return world.staff_a.post("/v1/outcomes", {"participant": visit["participant"], "visit": visit["id"], **outcome})


def taking_history(world: World) -> dict[str, str]:
    """An enrolment under a protocol version that takes historical totals."""
    version = uuid4().hex
    definition = {**protocol_definition(), "version": version, "historical_totals": HISTORICAL}
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", definition).status_code == 201
    return {"protocol_version": version}


def historical(world: World, totals: dict[str, float], instrument: str = "MADRS") -> Response:
    pid = world.enrolled(**taking_history(world))
    visit = world.staff_a.post("/v1/visits", world.visit(pid)).json()
    body = {"participant": pid, "visit": visit["id"], "instrument": instrument, "totals": totals}
    return world.staff_a.post("/v1/outcomes", body)


def scores(answer: Response) -> dict[str, Any]:
    return {item["name"]: item["value"] for item in answer.json()["scores"]}


def test_a_total_that_agrees_with_the_items_is_taken(world: World) -> None:
    answer = post(world, **madrs(3), totals={"total": 30})
    assert (answer.status_code, answer.json()["origin"], scores(answer)) == (201, "items", {"total": 30})


@pytest.mark.parametrize(
    ("items", "totals", "pointer", "code"),
    [
        (madrs(3), {"total": 29}, "/totals/total", "total_differs"),
        (madrs(3), {"total": 30.5}, "/totals/total", "total_differs"),
        (madrs(3), {"sum": 30}, "/totals/?", "unknown_score"),
        ({"instrument": "MADRS", "items": {"MADRS_01": 3}}, {"total": 3}, "/totals/total", "total_differs"),
    ],
)
def test_a_total_that_differs_is_refused_and_nothing_is_stored(
    world: World, items: dict[str, Any], totals: dict[str, float], pointer: str, code: str
) -> None:
    answer = post(world, **items, totals=totals)
    assert (answer.status_code, answer.json()["code"]) == (422, "totals_differ")
    assert [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]] == [(pointer, code)]
    assert world.staff_a.get("/v1/outcomes", study=world.study).json()["items"] == []


def test_a_correction_is_compared_with_the_clients_total_too(world: World) -> None:
    made = post(world, **madrs(3))
    path, seen = made.headers["Location"], made.headers["ETag"]
    body = {"reason": "typed wrongly", "items": {"MADRS_01": 4}}
    refused = world.staff_a.patch(path, {**body, "totals": {"total": 30}}, seen)
    assert (refused.status_code, refused.json()["code"]) == (422, "totals_differ")
    assert scores(world.staff_a.patch(path, {**body, "totals": {"total": 31}}, seen)) == {"total": 31}


def test_a_total_alone_is_compared_with_the_items_that_are_there(world: World) -> None:
    made = post(world, **madrs(2))
    path, seen = made.headers["Location"], made.headers["ETag"]
    refused = world.staff_a.patch(path, {"reason": "to be sure", "totals": {"total": 59}}, seen)
    assert (refused.status_code, refused.json()["code"]) == (422, "totals_differ")
    agreeing = world.staff_a.patch(path, {"reason": "to be sure", "totals": {"total": 20}}, seen)
    assert (agreeing.status_code, agreeing.json()) == (200, made.json())


def test_totals_without_items_are_taken_only_where_the_protocol_says_so(world: World) -> None:
    refused = post(world, instrument="MADRS", totals={"total": 30})
    assert (refused.status_code, refused.json()["code"]) == (422, "totals_not_taken")
    taken = historical(world, {"total": 30})
    assert (taken.status_code, taken.json()["origin"], scores(taken)) == (201, "historical_total", {"total": 30})
    assert set(taken.json()["items"].values()) == {None}
    assert taken.json()["scores"][0]["rule"] == "MADRS/1 historical total"
    assert taken.json()["scores"][0]["band"] == "moderate"
    other = historical(world, {"total": 10}, "PHQ9")
    assert (other.status_code, other.json()["code"]) == (422, "totals_not_taken")
    nothing = post(world, instrument="MADRS")
    assert (nothing.status_code, nothing.json()["errors"][0]["code"]) == (422, "items_missing")


@pytest.mark.parametrize("total", [-1, 61])
def test_a_historical_total_lies_in_the_range_of_its_score(world: World, total: int) -> None:
    answer = historical(world, {"total": total})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "out_of_range")


def test_a_historical_total_is_corrected_as_a_total_with_its_history(world: World) -> None:
    made = historical(world, {"total": 30})
    path, seen = made.headers["Location"], made.headers["ETag"]
    by_items = world.staff_a.patch(path, {"reason": "found", "items": {"MADRS_01": 3}}, seen)
    assert (by_items.status_code, by_items.json()["code"]) == (409, "historical_total")
    corrected = world.staff_a.patch(path, {"reason": "misread the file", "totals": {"total": 31}}, seen)
    assert (scores(corrected), corrected.json()["version"]) == ({"total": 31}, 2)
    again = world.staff_a.patch(
        path, {"reason": "misread the file", "totals": {"total": 31}}, corrected.headers["ETag"]
    )
    assert again.json()["version"] == 2
    with world.registry.database.read() as session:
        entry = session.exec(
            select(AuditEntry).where(AuditEntry.subject_id == made.json()["id"], AuditEntry.subject_version == 2)
        ).one()
    assert json.loads(entry.changes) == [{"field": "scores.total", "old": 30.0, "new": 31.0}]


def test_a_historical_total_raises_the_signal_that_items_would(world: World) -> None:
    """Rules on scores see it; rules on items cannot."""
    made = historical(world, {"total": 60})
    assert made.status_code == 201
    shown = world.monitor.get(f"/v1/outcomes/{made.json()['id']}").json()
    assert shown["origin"] == "historical_total"


def test_scoring_again_by_a_newer_version_keeps_both_results(world: World) -> None:
    items = {f"CSSRS_SLV_{number:02d}": int(number < 3) for number in range(1, 11)}
    made = post(world, instrument="CSSRS_SLV", instrument_version="1", items=items)
    path = f"{made.headers['Location']}/rescoring"
    first = world.staff_a.post(path, {"reason": "new rules"})
    assert (first.status_code, first.json()["instrument_version"], first.json()["version"]) == (200, "2", 2)
    assert {item["rule"].partition(" ")[0] for item in first.json()["scores"]} == {"CSSRS_SLV/2"}
    again = world.staff_a.post(path, {"reason": "new rules"})
    assert again.json() == first.json()
    with world.registry.database.read() as session:
        theirs = select(AuditEntry).where(AuditEntry.subject_id == made.json()["id"])
        entries = session.exec(theirs.order_by(col(AuditEntry.seq))).all()
    assert [entry.action for entry in entries] == ["outcome:recorded", "outcome:rescored"]
    assert ("instrument_version", "1", "2") in [
        (change["field"], change["old"], change["new"]) for change in json.loads(entries[1].changes)
    ]


def test_scoring_again_by_the_same_rules_writes_nothing(world: World) -> None:
    made = post(world, **madrs(3))
    again = world.staff_a.post(f"{made.headers['Location']}/rescoring", {"reason": "to be sure"})
    assert (again.status_code, again.json()) == (200, made.json())
    assert again.headers["ETag"] == made.headers["ETag"]


def test_a_version_that_the_items_do_not_fit_cannot_score_them(world: World) -> None:
    made = post(world, **madrs(3))
    answer = world.staff_a.post(
        f"{made.headers['Location']}/rescoring", {"reason": "to be sure", "instrument_version": "99"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "instrument_unknown")


def test_acute_effects_have_a_score_for_each_scale_and_no_total(world: World) -> None:
    answer = post(world, instrument="SEVAS_DOSE", items={})
    assert (answer.status_code, set(scores(answer).values())) == (201, {None})
    code = next(iter(answer.json()["items"]))
    body = {"reason": "found the sheet", "items": {code: 50}}
    corrected = world.staff_a.patch(answer.headers["Location"], body, answer.headers["ETag"])
    assert [value for value in scores(corrected).values() if value is not None] == [50]
