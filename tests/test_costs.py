"""What a request costs, in figures that no busy machine changes: statements, plans, memory."""

import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import text

from app import audit
from app.database import Database
from app.main import create_app
from app.models.account import Role
from app.models.audit import REGISTRY_CHAIN
from app.services.extracts.extract_sql import unhurried
from bench.extracts import approved, built
from bench.seed import Volume, seed
from tests.conftest import ENGINES, BuildsAtOnce
from tests.hot_requests import Place, statements
from tests.postgres import new_database, settings_of
from tests.world import World

VOLUME = Volume.of(21_000, sites=8)
LARGE = frozenset({"participant", "visit", "outcome", "outcome_score", "adverse_event", "audit_entry"})
"""Tables of which no request may read everything."""

MEGABYTES = 25


@pytest.fixture(scope="module", params=ENGINES)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Callable[[str], str]
) -> Iterator[Place]:
    """A thousand people at eight sites, with 21 adverse events and 21 outcomes each."""
    yield from _served(request, tmp_path_factory.mktemp("costs"), migrated, VOLUME)


@pytest.fixture(scope="module", params=ENGINES)
def consortium(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Callable[[str], str]
) -> Iterator[Place]:
    """Two hundred people at a hundred sites."""
    yield from _served(request, tmp_path_factory.mktemp("consortium"), migrated, Volume.of(4_200, sites=100))


def _served(
    request: pytest.FixtureRequest, folder: Path, migrated: Callable[[str], str], volume: Volume
) -> Iterator[Place]:
    if request.param == "sqlite":
        shutil.copy(migrated("sqlite").removeprefix("sqlite:///"), folder / "registry.db")
        yield from _filled(f"sqlite:///{folder / 'registry.db'}", folder, volume)
    else:
        with new_database(request.getfixturevalue("postgres_url"), migrated("postgresql")) as url:
            yield from _filled(url, folder, volume)


def _filled(url: str, folder: Path, volume: Volume) -> Iterator[Place]:
    settings = settings_of(url, folder / "keys.json").model_copy(update={"grants_cache_seconds": 10.0})
    seeded = seed(settings, volume)
    app = create_app(settings)
    app.state.builder = BuildsAtOnce(settings, app.state.keyring)
    with TestClient(app) as client:
        yield Place(app, client, settings, seeded)


COSTS = {
    "enrolment": (15, 9),
    "visit": (9, 4),
    "visit with outcomes": (11, 4),
    "adverse event": (9, 4),
    "10 visits in bulk": (9, 4),
    "100 visits in bulk": (9, 4),
    "100 verifications in bulk": (8, 3),
    "participants": (2, 1),
    "visits": (2, 1),
    "visits beside their windows": (3, 2),
    "outcomes": (3, 2),
    "adverse events": (2, 1),
    "adverse events beside the doses": (3, 2),
    "serious adverse events of a site": (2, 1),
    "change feed": (3, 2),
    "schedule": (7, 6),
    "response": (3, 2),
    "content to sign": (14, 13),
    "audit trail": (4, 3),
    "outcome, and the visit before it": (20, 9),
    "amended visit, read before": (16, 14),
}
"""Request -> its statements on SQLite, with their BEGIN, and on PostgreSQL, where it travels with the first of them.
Whoever raises a figure says why."""

OF_ONE_PERSON = ("schedule", "response", "content to sign")
LISTS = (
    "participants",
    "visits",
    "visits beside their windows",
    "outcomes",
    "adverse events",
    "adverse events beside the doses",
    "serious adverse events of a site",
    "change feed",
    "audit trail",
)
PAGE, SITES, GUESSED = 51, 8, 10
"""Rows that a list may sort: a page of each site. A plan for any sites takes it that there are ten."""


@dataclass
class Step:
    """One step of a plan: what it does, to how many rows and by which index (SQLite says both in `does`, or not)."""

    does: str
    rows: float = 0
    index: str = ""
    for_any: bool = False
    """Of a plan that was made for any values."""

    @property
    def sorts_more_than_pages(self) -> bool:
        return self.does == "Sort" and self.rows > PAGE * (GUESSED if self.for_any else SITES)


def explained(place: Place, asked: str | Callable[[], Response]) -> list[tuple[str, list[Step]]]:
    """The statements of a request as it is made the second time, each with its plan, in its own transaction."""
    ask, seen = asked if callable(asked) else place.prepared()[asked], []
    assert ask().is_success

    def look(cursor: Any, statement: str, given: Any) -> None:
        plan = _plan(cursor.connection, statement, given, place.on_sqlite) if _has_plan(statement) else []
        seen.append((statement, plan))

    with statements(place.app.state.database, look):
        answer = ask()
    assert answer.is_success, answer.text
    return seen


def _has_plan(statement: str) -> bool:
    return statement.lstrip().split(maxsplit=1)[0].upper() in {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"}


def _plan(connection: Any, statement: str, given: Any, on_sqlite: bool) -> list[Step]:
    """PostgreSQL has two where it reads: for these values, and for any, once a connection has asked often enough."""
    if on_sqlite:
        return [Step(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
    cursor = connection.cursor()
    [(plans,)] = cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", given, prepare=False).fetchall()
    reads = cursor.execute("SHOW transaction_read_only").fetchone() == ("on",)
    for_any = _plan_for_any(cursor, statement) if reads else []
    return [
        *(step for plan in plans for step in _steps(plan["Plan"])),
        *(replace(step, for_any=True) for plan in for_any for step in _steps(plan["Plan"])),
    ]


def _plan_for_any(cursor: Any, statement: str) -> Any:
    names: list[str] = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda one: f"${names.index(one[1]) + 1}", statement).replace("%%", "%")
    nothing = f"({', '.join(['NULL'] * len(names))})" if names else ""
    cursor.execute(f"SET LOCAL plan_cache_mode = force_generic_plan; PREPARE once AS {numbered}", prepare=False)
    [(plans,)] = cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE once{nothing}", prepare=False).fetchall()
    cursor.execute("DEALLOCATE once; SET LOCAL plan_cache_mode = auto", prepare=False)
    return plans


def _steps(node: dict[str, Any]) -> list[Step]:
    here = Step(
        f"{node['Node Type']} {node.get('Relation Name', '')}".strip(), node["Plan Rows"], node.get("Index Name", "")
    )
    return [here, *(step for inner in node.get("Plans", ()) for step in _steps(inner))]


@pytest.mark.parametrize("name", COSTS)
def test_a_request_makes_only_so_many_statements(place: Place, name: str) -> None:
    seen = [statement for statement, _ in explained(place, name)]
    assert len(seen) == COSTS[name][not place.on_sqlite], "\n\n".join(seen)


@pytest.mark.parametrize("name", COSTS)
def test_no_request_reads_a_whole_table(place: Place, name: str) -> None:
    for statement, plan in explained(place, name):
        whole = {table for table in LARGE for step in plan if _reads_all_of(table, step)}
        assert not whole, f"{whole}\n{statement}\n{plan}"


def _reads_all_of(table: str, step: Step) -> bool:
    return step.does == f"Seq Scan {table}" or f"{step.does} ".startswith(f"SCAN {table} ")


@pytest.mark.parametrize(
    "name", ["enrolment", "visit with outcomes", "adverse event", "outcome, and the visit before it"]
)
def test_a_posts_statements_are_not_planned_anew_each_time(place: Place, name: str) -> None:
    """PostgreSQL makes five plans for the values at hand, and then keeps one for any if that costs no more."""
    if place.on_sqlite:
        pytest.skip("SQLite's driver keeps what it prepared")
    planned: dict[str, tuple[int, int]] = {}

    def look(cursor: Any, _statement: str, _given: Any) -> None:
        listed = "SELECT statement, custom_plans, generic_plans FROM pg_prepared_statements"
        rows = cursor.connection.cursor().execute(listed, prepare=False).fetchall()
        planned.update({text: (anew, kept) for text, anew, kept in rows})

    ask = place.prepared()[name]
    with statements(place.app.state.database, look):
        for _ in range(15):
            assert ask().is_success
    assert len([text for text, (_, kept) in planned.items() if kept]) >= 4
    assert not {text: anew for text, (anew, _) in planned.items() if anew > 5}


@pytest.mark.parametrize("name", OF_ONE_PERSON)
def test_what_is_read_of_one_person_does_not_grow_with_their_site(place: Place, name: str) -> None:
    for statement, plan in explained(place, name):
        of_the_site = [step for step in plan if step.does.split()[:1] == ["SEARCH"] and _by_site_alone(step)]
        assert not of_the_site, f"{of_the_site}\n{statement}"
        assert not [step for step in plan if step.rows > 1_000], f"{statement}\n{plan}"


def _by_site_alone(step: Step) -> bool:
    return step.does.split()[1] in LARGE and step.does.endswith("(site_id=?)")


def test_a_new_registrys_trail_is_not_read_whole_for_each_entry(world: World) -> None:
    """Plans inside functions are made once, for the size of then. SQLite makes none ahead."""
    if world.on_sqlite:
        pytest.skip("SQLite's triggers have no plans that it keeps")
    done = audit.Event("test.done", "test", "1", 1, [])
    with world.registry.database.write() as session:
        session.execute(text("ANALYZE audit_entry"))
        audit.append(session, audit.SYSTEM, REGISTRY_CHAIN, [done, done])
        whole, by_key = session.execute(text(f"{_READS} WHERE relname = 'audit_entry'")).one()
    assert (whole, by_key) == (0, 4)  # the last moment, what each entry follows, and what the head moves to


_READS = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables"


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_read_in_its_own_order(place: Place, name: str) -> None:
    """Rows come as an index has them, whether from one site or from many: at most a page of each site is sorted."""
    for statement, plan in explained(place, name):
        assert not [step for step in plan if step.sorts_more_than_pages], f"{statement}\n{plan}"
        if "USE TEMP B-TREE FOR ORDER BY" in [step.does for step in plan] and "LIMIT" in statement:
            assert _merges(plan), f"{statement}\n{plan}"


def _merges(plan: list[Step]) -> bool:
    """On SQLite: what is sorted, once, are rows that were found by their keys, which come from each site's index."""
    does = [step.does for step in plan]
    by_key = [one for one in does if one.endswith(("(site_id=? AND id=?)", "(site_id=? AND pid=?)"))]
    return does.count("USE TEMP B-TREE FOR ORDER BY") == 1 and does[0].startswith("SCAN one_site") and bool(by_key)


@pytest.mark.parametrize("path", ["participants", "visits", "outcomes", "adverse-events", "changes"])
def test_a_list_of_a_hundred_sites_is_one_short_statement(consortium: Place, path: str) -> None:
    """One that names each site's part by itself is made, sent and planned for a second."""
    monitor, texts = consortium.caller(Role.monitor), []
    with statements(consortium.app.state.database, lambda _cursor, text, _given: texts.append(text)):
        page = monitor.get(f"/v1/{path}", limit=50).json()
    assert len(page["items"]) == 50
    assert max(map(len, texts)) < 20_000


def test_pages_over_a_hundred_sites_hold_every_row_once_in_their_order(consortium: Place) -> None:
    monitor, seen, after = consortium.caller(Role.monitor), [], {}
    while after is not None:
        page = monitor.get("/v1/visits", limit=200, **after).json()
        seen += [(visit["created_at"], visit["id"]) for visit in page["items"]]
        after = {"cursor": page["next"]} if page["next"] else None
    assert seen == sorted(set(seen), reverse=True)
    with Database(consortium.settings) as database, database.engine.connect() as connection:
        assert len(seen) == connection.execute(text("SELECT count(*) FROM visit")).scalar_one() > 1_000


def test_serious_events_are_not_sought_among_all_others(place: Place) -> None:
    seen = explained(place, "serious adverse events of a site")
    assert [one for _, plan in seen for one in plan if "ix_adverse_event_serious" in (one.index or one.does)], seen


@pytest.mark.parametrize(
    ("index", "asked"),
    [
        ("updated", {"sort": "updated"}),
        ("updated", {"sort": "updated", "updated_since": "2099-01-01T00:00:00Z"}),
        ("severity", {"severity": "severe"}),
        ("soc", {"soc": "Eye disorders"}),
        ("special_interest", {"aesi": "seizure"}),
        ("serious", {"outcome": "fatal"}),
    ],
)
@pytest.mark.parametrize("sites", [{}, {"site": "S0"}], ids=["of all sites", "of one site"])
def test_events_are_sorted_and_sought_by_an_index(
    place: Place, index: str, asked: dict[str, str], sites: dict[str, str]
) -> None:
    monitor = place.caller(Role.monitor)
    seen = explained(place, lambda: monitor.get("/v1/adverse-events", **asked, **sites))
    steps = [step for _, plan in seen for step in plan]
    assert any(f"ix_adverse_event_{index}" in (step.index or step.does) for step in steps), seen
    assert not [step for step in steps if step.sorts_more_than_pages], seen


@pytest.mark.parametrize("name", LISTS)
def test_a_list_counts_nothing(place: Place, name: str) -> None:
    assert not [statement for statement, _ in explained(place, name) if "count(" in statement.lower()]


def test_an_extract_joins_tables_in_the_order_in_which_its_statement_names_them(place: Place) -> None:
    """Of a registry's first extract the planner knows no size. It joined people and visits by their site alone, which
    took minutes for 47,619 people. Here it would turn the order round, if it was let."""
    if place.on_sqlite:
        pytest.skip("SQLite joins as its indexes lie")
    named = "visit JOIN outcome_score USING (site_id) JOIN outcome ON outcome.id = outcome_id AND visit_id = visit.id"
    with Database(place.settings) as database, database.read() as session:
        unhurried(session)
        connection = session.connection().connection.driver_connection
        steps = [step.does for step in _plan(connection, f"SELECT 1 FROM {named}", None, on_sqlite=False)]
    tables = [does.rpartition(" ")[2] for does in steps if " visit" in does or " outcome" in does]
    assert set(tables[:2]) == {"visit", "outcome_score"}, steps


def test_building_an_extract_takes_little_memory(place: Place) -> None:
    """21,000 scores, in a process of its own: as rows of Python objects alone they would take more."""
    approved(place.settings, place.seeded, ["csv"])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        made = pool.apply(built, (place.settings,))
    assert made["rows"] >= 21_000
    assert made["megabytes"] < MEGABYTES, made
