"""What a monitor sees across sites: how old questions are, and how each site does."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

from sqlalchemy import event

from app.models.account import Role
from app.models.base import now
from app.models.data_query import DataQuery
from tests.courses import left
from tests.monitor_cases import a_question, an_event
from tests.world import World


def sites(world: World, what: str, **callers: Any) -> dict[str, Any]:
    answer = callers.get("caller", world.monitor).get(f"/v1/monitoring/{what}", study=world.study)
    assert answer.status_code == 200, answer.text
    assert [site["site"] for site in answer.json()["sites"]] == sorted(site["site"] for site in answer.json()["sites"])
    return {site["site"]: site for site in answer.json()["sites"]}


def aged(world: World, path: str, days: float) -> None:
    with world.registry.database.write() as session:
        row = session.get_one(DataQuery, (world.site_ids["A"], UUID(path.rpartition("/")[2])))
        row.open_since = now() - timedelta(days=days)


def test_ages_of_open_queries_are_shown_by_site_and_origin(world: World) -> None:
    for days in (1, 2, 3, 4, 5, 6, 7, 8, 9, 40):
        aged(world, a_question(world, "A"), days)
    a_question(world, "A", answered=True)
    world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), onset=None))
    site = sites(world, "queries")["A"]
    asked, ruled = site["by_origin"]
    assert (asked["origin"], asked["open"], asked["answered"], asked["closed"]) == ("monitor", 10, 1, 0)
    assert (round(asked["median_age_days"], 1), round(asked["p90_age_days"], 1)) == (5.5, 9.0)
    assert (ruled["origin"], ruled["open"], ruled["median_age_days"]) == ("rule", 1, 0.0)
    assert (site["open"], site["answered"], site["cancelled"]) == (11, 1, 0)
    nothing = sites(world, "queries")["B"]
    assert (nothing["open"], nothing["median_age_days"], nothing["p90_age_days"]) == (0, None, None)


def test_a_monitor_of_one_site_sees_that_site(world: World) -> None:
    a_question(world, "B")
    for what in ("queries", "sites"):
        assert list(sites(world, what, caller=world.monitor_a)) == ["A"]
        unknown = world.monitor.get(f"/v1/monitoring/{what}", study="no-such-study")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        assert world.monitor.get(f"/v1/monitoring/{what}").status_code == 422


def test_a_site_is_described_by_enrolment_windows_queries_and_events(world: World) -> None:
    first, second = world.enrolled(), world.enrolled()
    for visit in (
        world.visit(first, "DOS1", "2025-02-01"),
        world.visit(first, "INT1A", "2025-02-02"),
        world.visit(first, "INT1B", "2025-02-20", deviation_reason="The participant travelled"),
        world.visit(first, "INT1C", None, status="missed", deviation_reason="The participant forgot"),
    ):
        assert world.staff_a.post("/v1/visits", visit).status_code == 201
    for status, on in (("withdrawn", "2025-02-19"), ("died", "2025-03-10")):
        left(world, second, status, on)
    for onset in ("2025-02-03", "2025-01", None, "2025-01-19", "2024"):  # two of them before the enrolment
        world.staff_a.post("/v1/adverse-events", world.event(first, onset=onset))
    world.staff_a.post("/v1/adverse-events", world.event(second, onset="2025-02-20"))  # after leaving
    day = date(2025, 3, 21)
    with patch("app.services.quality.site_performance.now", lambda: now().replace(day.year, day.month, day.day)):
        site = sites(world, "sites")["A"]
    assert (site["participants"]["registered"], site["participants"]["enrolled"]) == (2, 2)
    assert site["participants"]["by_status"]["died"] == 1
    assert site["visits"] == {"with_window": 2, "in_window": 1, "share": 0.5}
    assert (site["data_queries"]["open"], site["data_queries_per_participant"]) == (3, 1.5)
    reporting = site["adverse_events"]
    assert (reporting["events"], reporting["participant_months"]) == (3, round((60 + 30) / (365.25 / 12), 2))
    assert reporting["per_participant_month"] == round(3 / (90 / (365.25 / 12)), 4)


def test_a_silent_site_and_a_loud_one_are_marked(world: World) -> None:
    world.enrolled("B")
    pid = world.enrolled("A")
    for _ in range(12):
        world.staff_a.post("/v1/adverse-events", world.event(pid))
    shown = sites(world, "sites")
    assert (shown["A"]["adverse_events"]["mark"], shown["B"]["adverse_events"]["mark"]) == ("very_high", "very_low")
    assert shown["B"]["adverse_events"]["expected"] == 6.0


@contextmanager
def counted(world: World) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(world.registry.served.of_sessions, "before_cursor_execute", note)
    yield seen
    event.remove(world.registry.served.of_sessions, "before_cursor_execute", note)


def test_the_number_of_statements_does_not_grow_with_the_study(world: World) -> None:
    caller = world.caller((Role.monitor, None))
    for what in ("queries", "sites"):
        sites(world, what, caller=caller)
        with counted(world) as few:
            sites(world, what, caller=caller)
        for site in ("A", "B"):
            an_event(world, site)
            a_question(world, site)
            world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
        sites(world, what, caller=caller)
        with counted(world) as many:
            sites(world, what, caller=caller)
        assert len(many) == len(few) < 16
