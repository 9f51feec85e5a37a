"""Nothing is recorded of a future day: each day is compared with the site's own calendar."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast, get_args
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

import app.models.base
from app.access import Actor
from app.errors import ValidationFailed
from app.models.base import CLOCK_OFF, HAPPENED, Shape
from app.models.study import Site
from app.models.visit import VisitCreate
from app.services.site_days import require_past
from tests.world import Caller, World, madrs

ZONES = ("UTC", "America/Los_Angeles", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu")
NOON = datetime(2025, 6, 15, 12, tzinfo=UTC)
"""When it is the 16th at the easternmost sites, and the 15th at the westernmost."""

TOMORROW = "2025-06-16"


def at_moment(monkeypatch: pytest.MonkeyPatch, at: datetime) -> None:
    monkeypatch.setattr(app.models.base, "now", lambda: at)


def moved(world: World, zone: str) -> World:
    with world.registry.database.write() as session:
        session.get_one(Site, world.site_ids["A"]).timezone = zone
    return world


def faults(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(one["pointer"], one["code"]) for one in answer.json()["errors"]]


@pytest.mark.parametrize("zone", ZONES)
def test_a_visit_of_tomorrow_is_refused_until_it_is_tomorrow_at_the_site(
    world: World, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    pid = moved(world, zone).enrolled()
    midnight = datetime(2025, 6, 16, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    visit = world.visit(pid, "UNS", TOMORROW)
    at_moment(monkeypatch, midnight - CLOCK_OFF - timedelta(seconds=1))
    assert faults(world.staff_a.post("/v1/visits", visit)) == [("/occurred_on", "date_in_future")]
    at_moment(monkeypatch, midnight - CLOCK_OFF)
    assert world.staff_a.post("/v1/visits", visit).status_code == 201


def person(world: World) -> str:
    return f"/v1/participants/{world.enrolled()}"


def consent(world: World) -> tuple[str, dict[str, Any]]:
    return f"{person(world)}/consents", {"version": "1", "scopes": ["main"], "reason": "given anew"}


def withdrawal(world: World) -> tuple[str, dict[str, Any]]:
    return f"{person(world)}/withdrawals", {"scope": "collection", "reason": "asked for it"}


def status(world: World) -> tuple[str, dict[str, Any]]:
    return f"{person(world)}/status", {"status": "withdrawn", "reason": "Moved away"}


def screening(world: World) -> tuple[str, dict[str, Any]]:
    unmet = {"enrolled_on": None, "eligibility": {"met": False, "unmet": ["INCL02"]}}
    pid = world.enrolled(**unmet)
    return f"/v1/participants/{pid}/screenings", {"reason": "screened anew"}


def visit(world: World) -> tuple[str, dict[str, Any]]:
    return "/v1/visits", world.visit(world.enrolled())


def outcome(world: World) -> tuple[str, dict[str, Any]]:
    held = world.staff_a.post("/v1/visits", world.visit(world.enrolled())).json()
    return "/v1/outcomes", {"participant": held["participant"], "visit": held["id"], **madrs(1)}


def event(world: World) -> tuple[str, dict[str, Any]]:
    return "/v1/adverse-events", world.event(world.enrolled())


def enrolment(world: World) -> tuple[str, dict[str, Any]]:
    return "/v1/participants", world.enrolment(enrolled_on=None)


NEW: list[tuple[Callable[[World], tuple[str, dict[str, Any]]], dict[str, Any], str]] = [
    (visit, {"occurred_on": TOMORROW}, "/occurred_on"),
    (visit, {"ended_on": TOMORROW}, "/ended_on"),
    (visit, {"outcomes": [{**madrs(1), "collected_on": TOMORROW}]}, "/outcomes/0/collected_on"),
    (outcome, {"collected_on": TOMORROW}, "/collected_on"),
    (event, {"onset": TOMORROW}, "/onset"),
    (event, {"end": TOMORROW, "outcome": "recovered"}, "/end"),
    (event, {"end": TOMORROW, "outcome": "fatal", "criteria": {"death": True}}, "/end"),
    (enrolment, {"screened_on": TOMORROW}, "/screened_on"),
    (enrolment, {"enrolled_on": TOMORROW}, "/enrolled_on"),
    (enrolment, {"consent": {"version": "1", "given_on": TOMORROW, "scopes": ["main"]}}, "/consent/given_on"),
    (consent, {"given_on": TOMORROW}, "/given_on"),
    (withdrawal, {"effective_on": TOMORROW}, "/effective_on"),
    (status, {"effective_on": TOMORROW}, "/effective_on"),
    (screening, {"screened_on": TOMORROW}, "/screened_on"),
]


@pytest.mark.by_turns
@pytest.mark.parametrize(("make", "change", "pointer"), NEW, ids=[f"{one[0].__name__}{one[2]}" for one in NEW])
def test_nothing_is_recorded_of_tomorrow(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[World], tuple[str, dict[str, Any]]],
    change: dict[str, Any],
    pointer: str,
) -> None:
    path, body = make(moved(world, "Pacific/Pago_Pago"))
    at_moment(monkeypatch, NOON)
    assert faults(world.staff_a.post(path, {**body, **change})) == [(pointer, "date_in_future")]


CORRECTED: list[tuple[str, dict[str, Any], str]] = [
    ("visit", {"occurred_on": TOMORROW}, "/occurred_on"),
    ("outcome", {"collected_on": TOMORROW}, "/collected_on"),
    ("event", {"onset": TOMORROW}, "/onset"),
    ("enrolment", {"screened_on": TOMORROW}, "/screened_on"),
    ("enrolment", {"consent": {"version": "1", "given_on": TOMORROW}}, "/consent/given_on"),
]


@pytest.mark.by_turns
@pytest.mark.parametrize(("make", "change", "pointer"), CORRECTED, ids=[f"{one[0]}{one[2]}" for one in CORRECTED])
def test_nothing_is_corrected_to_tomorrow(
    world: World, monkeypatch: pytest.MonkeyPatch, make: str, change: dict[str, Any], pointer: str
) -> None:
    path, body = globals()[make](moved(world, "Pacific/Pago_Pago"))
    made = world.staff_a.post(path, body)
    at_moment(monkeypatch, NOON)
    wrong = {"reason": "typed wrongly", **change}
    answer = world.staff_a.patch(made.headers["Location"], wrong, made.headers["ETag"])
    assert faults(answer) == [(pointer, "date_in_future")]


def shapes(of: type[Shape] = Shape) -> Iterator[type[Shape]]:
    for shape in of.__subclasses__():
        yield shape
        yield from shapes(shape)


def test_every_body_with_a_day_is_tried_here() -> None:
    """A new one calls `require_past`, and comes into NEW or CORRECTED."""
    dated = {shape.__name__ for shape in shapes() if any(_is_marked(field) for field in shape.model_fields.values())}
    parts = {"AdverseEventFields", "ConsentAmend", "ConsentGiven", "EnrolmentFields", "OutcomeInVisit", "VisitDates"}
    new = {"AdverseEventCreate", "ConsentCreate", "OutcomeCreate", "ParticipantCreate", "ScreeningCreate"}
    assert dated - parts == new | {"StatusChange", "VisitCreate", "WithdrawalCreate"} | {
        "AdverseEventAmend",
        "OutcomeAmend",
        "ParticipantAmend",
        "VisitAmend",
    }


def _is_marked(part: Any) -> bool:
    inside = [*part.metadata, part.annotation] if isinstance(part, FieldInfo) else get_args(part)
    return any(one is HAPPENED or _is_marked(one) for one in inside)


def test_an_upload_and_an_app_that_was_offline_are_checked_against_the_same_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = moved(world, "Pacific/Pago_Pago").enrolled()
    at_moment(monkeypatch, NOON)
    ahead = world.visit(pid, "UNS", TOMORROW)
    lines = json.dumps({"key": str(uuid4()), "record": ahead}).encode()
    told = world.staff_a.raw("POST", "/v1/visits/bulk", lines, **{"Content-Type": "application/x-ndjson"})
    assert json.loads(told.text)["problem"]["errors"][0]["code"] == "date_in_future"
    act = {"id": str(uuid4()), "path": "/v1/visits", "body": ahead}
    synced = sync(world.staff_a, act)
    assert synced["problem"]["errors"][0]["code"] == "date_in_future"


def sync(caller: Caller, act: dict[str, Any]) -> dict[str, Any]:
    (result,) = caller.post("/v1/sync", {"operations": [act]}).json()["results"]
    return dict(result)


@given(
    at=st.datetimes(datetime(2024, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
    days=st.integers(-2, 3),
)
def test_a_day_is_taken_from_its_own_midnight_on(at: datetime, zone: str, days: int) -> None:
    """By a clock that may be a quarter of an hour fast."""
    on = at.astimezone(ZoneInfo(zone)).date() + timedelta(days=days)
    begins = datetime(on.year, on.month, on.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    with pytest.MonkeyPatch.context() as patched:
        at_moment(patched, at)
        assert taken(zone, on) == (begins <= at + CLOCK_OFF)


def taken(zone: str, on: date) -> bool:
    body = VisitCreate.model_construct({"occurred_on"}, occurred_on=on)
    try:
        require_past(cast(Actor, SimpleNamespace(zones={1: zone})), 1, body)
    except ValidationFailed:
        return False
    return True
