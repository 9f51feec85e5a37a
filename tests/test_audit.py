"""The audit trail: every write is in it, and a chain that was tampered with names its first bad entry."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import Session, col, func, select

from app import audit
from app.audit import Event
from app.database import Database
from app.models.audit import AuditChain, AuditEntry
from app.services.extracts import building
from app.services.quality import rule_queries
from app.settings import Settings
from tests.builds import built
from tests.courses import withdraw
from tests.route_cases import CASES, Route, a_visit
from tests.test_permissions import MATRIX, caller_of
from tests.test_sync_erased import enrolled_twice
from tests.world import World

WRITES = sorted(route for route in CASES if route[0] != "GET")
WRITES_BY_READING = [("GET", "/v1/extracts/{extract_id}/files/{name}")]


def entries(world: World) -> int:
    with world.registry.database.read() as session:
        return session.exec(select(func.count()).select_from(AuditEntry)).one()


@pytest.mark.by_turns  # one place writes the trail for all routes
@pytest.mark.parametrize("route", [*WRITES, *WRITES_BY_READING], ids=" ".join)
def test_every_write_is_in_the_trail_and_the_chains_stay_whole(world: World, route: Route) -> None:
    caller = caller_of(world, sorted(MATRIX[route])[0])
    answer = CASES[route](world, caller, "A")
    assert answer.is_success
    request_id = answer.headers["X-Request-Id"]
    with world.registry.database.read() as session:
        written = session.exec(select(AuditEntry).where(AuditEntry.request_id == request_id)).all()
        assert written, "nothing was remembered of this request"
        faults = [audit.walk(site, audit.entries(session, site)).fault for site in {entry.site_id for entry in written}]
        assert set(faults) == {None}


def test_after_all_these_writes_every_chain_ends_at_its_head(world: World) -> None:
    with world.registry.database.read() as session:
        assert [verdict for verdict in audit.verify(session) if verdict.fault] == []


def head_is_free(world: World) -> bool:
    """Nobody holds the head of the registry's own chain, for which all who write to it would wait."""
    head = "SELECT seq FROM audit_chain WHERE site_id = 0 FOR UPDATE SKIP LOCKED"
    with world.registry.database.engine.connect() as connection:
        return connection.execute(text(head)).first() is not None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_registrys_chain_is_held_last(world: World, waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before may wait for a row that somebody else holds."""
    free: list[bool] = []

    def then_looks(module: Any, name: str) -> None:
        act = getattr(module, name)

        def look(*given: Any) -> None:
            act(*given)
            free.append(head_is_free(world))

        monkeypatch.setattr(module, name, look)

    pid, _ = enrolled_twice(world)
    then_looks(rule_queries, "settle_all")
    then_looks(building, "notify")
    withdraw(world, pid, "identity", "2025-03-01")
    assert built(world)
    assert free == [True, True]


def test_reading_leaves_no_entry(world: World) -> None:
    location = a_visit(world, "A").headers["Location"]
    before = entries(world)
    assert world.monitor.get(location).is_success
    assert entries(world) == before


def test_a_correction_remembers_old_new_and_why(world: World) -> None:
    visit = a_visit(world, "A")
    body = {"occurred_on": "2025-01-27", "reason": "Read from the wrong line"}
    assert world.staff_a.patch(visit.headers["Location"], body, visit.headers["ETag"]).is_success
    with world.registry.database.read() as session:
        entry = session.exec(
            select(AuditEntry).where(AuditEntry.action == "visit:amended").order_by(col(AuditEntry.at).desc())
        ).first()
    assert entry is not None
    assert entry.reason == "Read from the wrong line"
    assert json.loads(entry.changes) == [{"field": "occurred_on", "old": "2025-01-25", "new": "2025-01-27"}]


def test_no_entry_carries_a_secret_or_the_sites_own_label(world: World) -> None:
    body = world.enrolment(site_local_id="Zq-canary-77")
    assert world.staff_a.post("/v1/participants", body).is_success
    with world.registry.database.read() as session:
        changes = session.exec(select(AuditEntry.changes)).all()
    assert not any("canary" in text or "argon2" in text for text in changes)


def test_every_correction_asks_for_a_reason_of_three_characters_or_more(world: World) -> None:
    """Amendments, and the status changes that withdrawal is one of (ICH E6(R3) 4.2.2)."""
    document = world.registry.client.get("/v1/openapi.json").json()
    asked: set[str] = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None or "$ref" not in content["schema"]:
                continue
            body = document["components"]["schemas"][content["schema"]["$ref"].rsplit("/", 1)[1]]
            for name, field in body.get("properties", {}).items():
                if name.endswith("reason"):
                    text_field = next(one for one in field.get("anyOf", [field]) if one["type"] == "string")
                    assert text_field["minLength"] >= 3, (path, name)
            if method == "patch" or path.endswith(("/status", "/approval", "/closure")):
                assert "reason" in body["required"], path
                asked.add(path)
    assert len(asked) >= 6


# Tampering, on a database of its own whose triggers are taken away.


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, migrated: Callable[[str], str]) -> Path:
    """A database with a chain of 40 entries at site 7, in one file."""
    file = tmp_path_factory.mktemp("chain") / "chain.db"
    shutil.copy(migrated("sqlite").removeprefix("sqlite:///"), file)
    with opened(file) as database, database.write() as session:
        for number in range(20):
            change = {"field": "value", "old": number, "new": number + 1}
            pair = [Event("visit:amended", "visit", f"v{number}", 1, [change], "a reason")] * 2
            audit.append(session, audit.SYSTEM, 7, pair)
        for trigger in session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            session.execute(text(f"DROP TRIGGER {trigger}"))
    return file


def opened(file: Path) -> Database:
    return Database(Settings(environment="demo", database_url=f"sqlite:///{file}"))


@pytest.fixture
def chain(untouched: Path, tmp_path: Path) -> Iterator[Database]:
    """A copy of it, to be tampered with."""
    with opened(Path(shutil.copy(untouched, tmp_path))) as database:
        yield database


@contextmanager
def tampering(database: Database) -> Iterator[Session]:
    with database.write() as session:
        yield session


def fault(database: Database) -> str | None:
    with database.read() as session:
        (verdict,) = audit.verify(session)
        return verdict.fault


def test_an_untouched_chain_is_whole(chain: Database) -> None:
    assert fault(chain) is None
    with chain.read() as session:
        assert session.exec(select(AuditChain.seq)).one() == 40


FIELDS = [column.name for column in AuditEntry.__table__.columns if column.name not in {"site_id", "seq"}]  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [1, 17, 40])
@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_field_is_found_and_located(chain: Database, field: str, number: int) -> None:
    other = "2020-01-01 00:00:00.000000" if field == "at" else 99 if field == "subject_version" else "other"
    with tampering(chain) as session:
        session.execute(text(f"UPDATE audit_entry SET {field} = :v WHERE seq = :n"), {"v": other, "n": number})
    found = fault(chain)
    assert found is not None
    assert f"entry {number} " in found


@pytest.mark.parametrize("number", range(1, 41))
def test_a_deleted_entry_is_found_and_located(chain: Database, number: int) -> None:
    with tampering(chain) as session:
        session.execute(text("DELETE FROM audit_entry WHERE seq = :n"), {"n": number})
    expected = f"entry {number} is missing" if number < 40 else "the head stands at entry 40, the entries end at 39"
    assert fault(chain) == expected


def test_an_inserted_entry_is_found(chain: Database) -> None:
    with tampering(chain) as session:
        session.execute(
            text(
                "INSERT INTO audit_entry SELECT site_id, 41, at, actor, action, subject_type, subject_id, "
                "subject_version, changes, reason, request_id, previous_hash, hash FROM audit_entry WHERE seq = 40"
            )
        )
    assert fault(chain) == "entry 41 does not follow entry 40"


@pytest.mark.parametrize(("one", "other"), [(3, 4), (1, 40), (10, 30)])
def test_swapped_entries_are_found(chain: Database, one: int, other: int) -> None:
    with tampering(chain) as session:
        for source, target in ((one, -1), (other, one), (-1, other)):
            session.execute(text("UPDATE audit_entry SET seq = :t WHERE seq = :s"), {"s": source, "t": target})
    found = fault(chain)
    assert found is not None
    assert f"entry {one} " in found


def test_an_entry_moved_to_another_chain_is_found(chain: Database) -> None:
    with tampering(chain) as session:
        session.execute(text("UPDATE audit_entry SET site_id = 8 WHERE seq = 40"))
    with chain.read() as session:
        assert {verdict.site_id: verdict.fault for verdict in audit.verify(session)} == {
            7: "the head stands at entry 40, the entries end at 39",
            8: "entry 1 is missing",
        }
