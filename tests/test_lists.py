"""Lists that the database writes as JSON hold what their shape says, and what the single record says."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from app.models.account import Role
from app.models.adverse_event_shapes import AdverseEventList
from app.models.participant import ParticipantList
from app.models.visit import VisitList
from app.site_lists import page_of
from tests.test_safety_signals import move
from tests.test_visits import dosed
from tests.world import Caller, World, madrs, protocol_definition


def events(world: World) -> None:
    pid = world.enrolled()
    coding = {"system": "own", "term": "Cephalalgia “left”", "level": "pt"}
    plain = world.event(pid, term='a "quoted" \\ term\n', codings=[coding], relatedness_drug="possible", expected=False)
    serious = world.event(
        pid, criteria={"hospitalisation": True}, aware_at="2025-02-03T10:00:00+01:00", onset="2025-02"
    )
    for body in (plain, serious, {**world.event(pid), "onset": None, "severity": "severe"}):
        assert world.staff_a.post("/v1/adverse-events", body).is_success


def visits(world: World) -> None:
    pid = world.enrolled()
    for body in (
        world.visit(pid, outcomes=[madrs(3)]),
        world.visit(pid, "PREP1", None, status="missed", deviation_reason="Ill, “flu”\tand tired"),
    ):
        assert world.staff_a.post("/v1/visits", body).is_success


def participants(world: World) -> None:
    for body in (
        world.enrolment(),
        {**world.enrolment(), "enrolled_on": None, "eligibility": {"met": False, "unmet": ["INCL02"]}, "race": "ASIAN"},
    ):
        assert world.staff_a.post("/v1/participants", body).is_success


@pytest.mark.parametrize(
    ("path", "made", "shape"),
    [
        ("/v1/adverse-events", events, AdverseEventList),
        ("/v1/visits", visits, VisitList),
        ("/v1/participants", participants, ParticipantList),
    ],
    ids=["adverse events", "visits", "participants"],
)
def test_a_list_says_of_a_record_what_the_record_says(
    world: World, path: str, made: Callable[[World], None], shape: type[BaseModel]
) -> None:
    made(world)
    listed = world.staff_a.get(path).json()
    assert len(listed["items"]) >= 2
    assert shape.model_validate_json(world.staff_a.get(path).content, strict=False).model_dump(mode="json") == listed
    for item in listed["items"]:
        single: dict[str, Any] = world.staff_a.get(f"{path}/{item.get('id') or item['pid']}").json()
        assert item == {name: single[name] for name in item}


def test_a_list_tells_on_request_what_single_visits_tell_of_their_windows(world: World) -> None:
    moved, waiting, elsewhere = dosed(world, protocol_version="1"), world.enrolled(), world.enrolled("B")
    why = {"deviation_reason": "Snow closed the road"}
    for visit in (
        world.visit(moved, "INT1B", "2025-02-12", **why),
        world.visit(moved, "INT1A", None, status="missed", **why),
        world.visit(moved, "UNS", "2025-02-12", occurrence=2),
        world.visit(waiting, "INT1B", "2025-02-08"),
    ):
        assert world.staff_a.post("/v1/visits", visit).status_code == 201
    assert world.staff_b.post("/v1/visits", world.visit(elsewhere)).status_code == 201
    definition = {**protocol_definition(), "version": "wide"}
    for one in definition["visits"]:
        one.update({"window_after": 40} if one["code"].startswith("INT1") else {})
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", definition).status_code == 201
    move(world, moved, "wide")
    assert world.staff_a.post("/v1/visits", world.visit(moved, "INT1C", "2025-03-25")).status_code == 201
    for caller in (world.monitor, world.monitor_a):
        asked = {"study": world.study, "include": "window", "limit": "4"}
        first = caller.get("/v1/visits", **asked).json()
        items = first["items"] + caller.get("/v1/visits", **asked, cursor=first["next"]).json()["items"]
        plain = caller.get("/v1/visits", study=world.study).json()["items"]
        assert [{name: item[name] for name in plain[0]} for item in items] == plain
        for item in items:
            single = caller.get(f"/v1/visits/{item['id']}").json()
            assert item == {name: single[name] for name in (*plain[0], "window", "deviation_days", "out_of_window")}
        told = {item["visit_code"]: item["out_of_window"] for item in items if item["participant"] == moved}
        assert told == {"BL": None, "DOS1": None, "INT1A": None, "INT1B": True, "INT1C": False, "UNS": None}
        assert not {"window", "deviation_days", "out_of_window"} & plain[0].keys()


LISTS = {
    "/v1/participants": {"status": "enrolled"},
    "/v1/visits": {"participant": "", "visit_code": "BL", "status": "completed"},
    "/v1/outcomes": {"participant": "", "instrument": "MADRS", "visit_code": "BL"},
    "/v1/adverse-events": {
        "participant": "",
        "serious": "true",
        "severity": "mild",
        "relatedness": "possible",
        "outcome": "fatal",
        "aesi": "seizure",
        "term": "Headache",
        "soc": "Eye disorders",
        "onset_from": "2025-01-01",
        "onset_to": "2025-02-01",
        "updated_since": "2025-01-01T00:00:00Z",
        "overdue": "true",
        "unreviewed": "true",
        "possible_duplicate": "false",
        "sort": "due",
    },
}


@pytest.mark.parametrize(("path", "asked"), LISTS.items(), ids=LISTS)
def test_the_statement_of_a_list_is_made_once(world: World, path: str, asked: dict[str, str]) -> None:
    """With each filter, at one site and at several, whoever asks and for which values."""
    pids = [world.enrolled(), world.enrolled("B")]
    somebody, else_ = world.caller((Role.monitor, "A"), (Role.monitor, "B")), world.caller((Role.monitor, "A"))

    def ask(caller: Caller, pid: str) -> None:
        for name, value in asked.items():
            assert caller.get(path, **{name: value or pid}).is_success, name
        assert caller.get(path, limit=1).is_success

    def made() -> int:
        return page_of.cache_info().misses

    ask(somebody, pids[0]), ask(else_, pids[0])
    before = made()
    ask(somebody, pids[1]), ask(else_, pids[1]), ask(world.caller((Role.monitor, "B")), pids[1])
    assert made() == before


def test_a_cursor_is_looked_at_even_where_nothing_is_in_reach(world: World) -> None:
    answer = world.monitor.get("/v1/visits", site="nowhere", cursor="garbage")
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")
