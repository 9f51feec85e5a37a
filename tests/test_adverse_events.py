"""Adverse events: seriousness from criteria, contradictions refused or remarked on, and the monitor's filters."""

from datetime import date
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models.adverse_event import AdverseEvent
from app.models.adverse_event_shapes import SeriousnessCriteria
from app.models.base import canonical_json
from app.models.partial_date import span
from app.services.safety.ae_findings import is_serious
from tests.world import World

CODED = [{"system": "own", "term": term, "level": level} for term, level in (("Cephalalgia", "pt"), ("Nerves", "soc"))]


@given(st.fixed_dictionaries({name: st.booleans() for name in SeriousnessCriteria.model_fields}))
def test_any_criterion_makes_an_event_serious_and_nothing_else_does(criteria: dict[str, bool]) -> None:
    assert is_serious(SeriousnessCriteria(**criteria)) == any(criteria.values())


def report(world: World, **changes: Any) -> dict[str, Any]:
    pid = changes.pop("pid", None) or world.enrolled()
    answer = world.staff_a.post("/v1/adverse-events", world.event(pid, **changes))
    assert answer.status_code == 201, answer.text
    event: dict[str, Any] = answer.json()
    return event


def codes(event: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in event["findings"]}


def test_seriousness_cannot_be_typed(world: World) -> None:
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), serious=True))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/serious")


def test_a_death_that_the_source_calls_not_serious_is_serious_and_has_a_finding(world: World) -> None:
    event = report(world, criteria={"death": True}, outcome="fatal", end="2025-02-09", serious_as_reported=False)
    assert event["serious"] is True
    assert event["serious_as_reported"] is False
    assert "seriousness_contradicts_criteria" in codes(event)


def test_a_serious_event_is_due_24_hours_after_awareness(world: World) -> None:
    aware = {"aware_at": "2025-03-30T00:30:00+01:00"}
    event = report(world, criteria={"hospitalisation": True}, **aware)
    assert event["due_at"] == "2025-03-30T23:30:00.000000Z"
    assert report(world, **aware)["due_at"] is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"outcome": "fatal", "end": "2025-02-09"}, "/criteria/death fatal_without_death"),
        ({"outcome": "fatal", "criteria": {"death": True}}, "/end end_missing"),
        ({"outcome": "recovered"}, "/end end_missing"),
        ({"outcome": "recovered_with_sequelae"}, "/end end_missing"),
        ({"end": "2025-02-02"}, "/end end_before_onset"),
        ({"onset": "2025-02", "end": "2025-01"}, "/end end_before_onset"),
        ({"codings": [{"system": "S", "term": "T", "level": "pt"}] * 2}, "/codings coding_level_twice"),
    ],
)
def test_what_cannot_be_true_is_refused(world: World, change: dict[str, Any], code: str) -> None:
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), **change))
    assert answer.status_code == 422
    assert "{pointer} {code}".format(**answer.json()["errors"][0]) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"end": "2025-02-09", "outcome": "not_recovered"}, "end_contradicts_outcome"),
        ({"end": "2025-02-09", "outcome": "recovering"}, "end_contradicts_outcome"),
        ({"criteria": {"death": True}, "outcome": "unknown"}, "death_contradicts_outcome"),
        ({"onset": None}, "onset_missing"),
        ({"criteria": {"disability": True}}, "awareness_missing"),
    ],
)
def test_what_is_unlikely_is_kept_with_a_finding(world: World, change: dict[str, Any], code: str) -> None:
    event = report(world, **change)
    assert code in codes(event)
    for name, value in change.items():
        assert event[name] == ({**event[name], **value} if isinstance(value, dict) else value)


@pytest.mark.parametrize(
    ("onset", "aware_at", "doubted"),
    [
        ("2025-02-03", "2025-02-02T09:59:59Z", True),
        ("2025-02-03", "2025-02-02T10:00:00Z", False),
        ("2025-02", "2025-01-31T09:59:59Z", True),
        ("2025-02", "2025-02-01T00:00:00Z", False),
    ],
    ids=["before the day began anywhere", "when it began farthest east", "before the month", "within the month"],
)
def test_an_awareness_before_the_onset_has_a_finding(world: World, onset: str, aware_at: str, doubted: bool) -> None:
    event = report(world, onset=onset, aware_at=aware_at, criteria={"hospitalisation": True})
    assert ("awareness_before_onset" in codes(event)) is doubted


@pytest.mark.parametrize("onset", ["2025", "2025-02", "2025-02-03"])
def test_a_partial_onset_keeps_its_precision(world: World, onset: str) -> None:
    assert report(world, onset=onset)["onset"] == onset


@pytest.mark.parametrize(
    "onset", ["25", "2025-2", "2025-02-30", "2025-13", "03/02/2025", "2025-02-03T10:00", "1899", "2025-00"]
)
def test_an_invalid_date_is_refused(world: World, onset: str) -> None:
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), onset=onset))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/onset")


@given(st.dates(date(1900, 1, 1), date(2100, 12, 31)))
def test_a_partial_date_spans_every_day_it_can_mean(day: Any) -> None:
    for text in (f"{day:%Y}", f"{day:%Y-%m}", f"{day:%Y-%m-%d}"):
        earliest, latest = span(text)
        assert earliest <= day <= latest
    assert span(f"{day:%Y-%m-%d}") == (day, day)


def test_the_special_interest_list_is_the_protocols(world: World) -> None:
    assert report(world, special_interest="suicidality")["special_interest"] == "suicidality"
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), special_interest="boredom"))
    assert (answer.status_code, answer.json()["code"]) == (422, "special_interest_unknown")


def listed(world: World, **filters: str) -> list[str]:
    answer = world.monitor.get("/v1/adverse-events", study=world.study, **filters)
    assert answer.status_code == 200, answer.text
    return [event["term"] for event in answer.json()["items"]]


def test_the_monitor_filters_in_any_combination(world: World) -> None:
    pid = world.enrolled()
    coding = [
        {"system": "own", "term": "Cephalalgia", "level": "pt"},
        {"system": "own", "term": "Head", "level": "soc"},
    ]
    report(world, pid=pid, term="one", severity="severe", onset="2025-02", codings=coding, relatedness_drug="possible")
    report(world, pid=pid, term="two", criteria={"hospitalisation": True}, aware_at="2025-01-01T00:00:00Z")
    report(world, pid=pid, term="three", outcome="recovered", end="2025-03-01", special_interest="suicidality")
    report(world, term="four", relatedness_therapy="possible", onset="2025-04-01")
    expected = [
        ({}, ["four", "three", "two", "one"]),
        ({"serious": "true"}, ["two"]),
        ({"serious": "false", "severity": "mild"}, ["four", "three"]),
        ({"severity": "severe"}, ["one"]),
        ({"relatedness": "possible"}, ["four", "one"]),
        ({"relatedness": "possible", "participant": pid}, ["one"]),
        ({"outcome": "recovered"}, ["three"]),
        ({"aesi": "suicidality"}, ["three"]),
        ({"term": "cephalalgia"}, ["one"]),
        ({"term": "TWO"}, ["two"]),
        ({"soc": "Head"}, ["one"]),
        ({"onset_from": "2025-02-20", "onset_to": "2025-02-25"}, ["one"]),
        ({"onset_from": "2025-03-01"}, ["four"]),
        ({"overdue": "true"}, ["two"]),
        ({"overdue": "false"}, ["four", "three", "one"]),
        ({"site": "B"}, []),
        ({"updated_since": "2099-01-01T00:00:00Z"}, []),
        ({"updated_since": "2025-01-01T00:00:00Z", "serious": "true"}, ["two"]),
    ]
    for filters, terms in expected:
        assert listed(world, **filters) == terms, filters


def test_the_history_has_old_and_new_value_author_time_and_reason(world: World) -> None:
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled()))
    path = answer.headers["Location"]
    change = {"severity": "severe", "reason": "The diary says otherwise"}
    assert world.staff_a.patch(path, change, answer.headers["ETag"]).status_code == 200
    history = world.monitor.get(f"{path}/history").json()["items"]
    last = history[-1]
    assert (last["field"], last["old"], last["new"], last["reason"], last["version"]) == (
        "severity",
        "mild",
        "severe",
        "The diary says otherwise",
        2,
    )
    assert last["actor_name"] == "Somebody"
    first = {item["field"]: item["new"] for item in history if item["version"] == 1}
    assert (first["term"], first["severity"]) == ("Headache", "mild")


def test_a_correction_derives_seriousness_again(world: World) -> None:
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled()))
    body = {"criteria": {"hospitalisation": True}, "reason": "Stayed in hospital overnight"}
    event = world.staff_a.patch(answer.headers["Location"], body, answer.headers["ETag"]).json()
    assert event["serious"] is True
    assert event["due_at"] is not None
    assert listed(world, serious="true") == ["Headache"]


def test_a_criterion_is_taken_away_by_saying_so_and_never_by_silence(world: World) -> None:
    event = world.event(world.enrolled(), criteria={"life_threatening": True}, aware_at="2025-02-03T09:00:00Z")
    answer = world.staff_a.post("/v1/adverse-events", event)
    path, seen = answer.headers["Location"], answer.headers["ETag"]
    body = {"criteria": {"hospitalisation": True}, "reason": "Kept overnight as well"}
    both = world.staff_a.patch(path, body, seen)
    assert [name for name, met in both.json()["criteria"].items() if met] == ["life_threatening", "hospitalisation"]
    body = {"criteria": {"life_threatening": False}, "reason": "The ward called"}
    one = world.staff_a.patch(path, body, both.headers["ETag"])
    assert [name for name, met in one.json()["criteria"].items() if met] == ["hospitalisation"]


@pytest.mark.parametrize(
    "again",
    [
        {"criteria": {}},
        {"criteria": {"hospitalisation": True}},
        {"criteria": {"hospitalisation": True, "death": False}},
        {"codings": CODED},
        {"codings": CODED[::-1]},
        {"aware_at": "2025-02-03T10:00:00+01:00"},
    ],
    ids=["no criterion", "a criterion", "one not met besides", "codings", "in another order", "same moment elsewhere"],
)
def test_a_correction_that_says_what_is_stored_makes_no_version(world: World, again: dict[str, Any]) -> None:
    known = {"criteria": {"hospitalisation": True}, "codings": CODED, "aware_at": "2025-02-03T09:00:00Z"}
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), **known))
    path, seen = answer.headers["Location"], answer.headers["ETag"]
    same = world.staff_a.patch(path, {**again, "reason": "The form was saved again"}, seen)
    assert (same.status_code, same.json()) == (200, answer.json())
    world.staff_a.patch(path, {"severity": "severe", "reason": "The diary says so"}, seen)
    stale = world.staff_a.patch(path, {**again, "reason": "The form was saved again"}, seen)
    assert (stale.status_code, stale.json()["differing_fields"]) == (412, [])


def test_codings_in_another_order_are_no_change(world: World) -> None:
    first = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), codings=CODED))
    change = {"codings": CODED[::-1], "severity": "severe", "reason": "The diary says so"}
    path = first.headers["Location"]
    answer = world.staff_a.patch(path, change, first.headers["ETag"])
    assert (answer.json()["version"], answer.json()["codings"]) == (2, first.json()["codings"])
    history = world.monitor.get(f"{path}/history").json()["items"]
    assert [item["field"] for item in history if item["version"] == 2] == ["severity"]


def test_a_correction_may_clear_a_field_but_not_contradict(world: World) -> None:
    pid = world.enrolled()
    answer = world.staff_a.post("/v1/adverse-events", world.event(pid, outcome="recovered", end="2025-02-05"))
    path, etag = answer.headers["Location"], answer.headers["ETag"]
    refused = world.staff_a.patch(path, {"end": None, "reason": "No end known"}, etag)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "end_missing")
    cleared = world.staff_a.patch(path, {"end": None, "outcome": None, "reason": "No end known"}, etag)
    assert (cleared.json()["end"], cleared.json()["outcome"]) == (None, None)


def test_an_event_whose_texts_were_accepted_before_is_read_and_corrected(world: World) -> None:
    made = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled()))
    blank = {"system": " ", "version": None, "code": None, "term": "Vertigo\u200b", "level": "pt"}
    with world.registry.database.write() as session:
        event = session.get_one(AdverseEvent, (world.site_ids["A"], UUID(made.json()["id"])))
        event.term, event.codings = " Vertigo\u200b ", canonical_json([blank])
    seen = world.staff_a.get(made.headers["Location"])
    assert (seen.json()["term"], seen.json()["codings"]) == (" Vertigo\u200b ", [blank])
    change = {"severity": "severe", "reason": "typed wrongly"}
    corrected = world.staff_a.patch(made.headers["Location"], change, seen.headers["ETag"])
    assert corrected.status_code == 200, corrected.text
    assert (corrected.json()["term"], corrected.json()["codings"]) == (" Vertigo\u200b ", [blank])
    refused = world.staff_a.patch(made.headers["Location"], {**change, "term": "\u200b"}, corrected.headers["ETag"])
    assert refused.json()["errors"][0]["pointer"] == "/term"
