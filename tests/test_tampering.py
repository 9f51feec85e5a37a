"""A chain of 200 entries, tampered with in every way that SQL allows: verify finds each, and names the right entry."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import Session

from app import audit, schema
from app.audit import GENESIS, Event, Head
from app.database import Database
from app.models.audit import AuditEntry
from app.models.base import table_of
from app.settings import Settings
from tests.postgres import new_database

LENGTH, CHAIN, OTHER = 200, 7, 8
COLUMNS = [column.name for column in table_of(AuditEntry).columns]
KEY = {"site_id", "seq"}
SAMPLE = (1, 2, 57, 100, 199, 200)
ALL = ", ".join(COLUMNS)


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def chained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database of its own, whose walls are taken away as an owner could."""
    if request.param == "sqlite":
        yield from _chained(f"sqlite:///{tmp_path_factory.mktemp('chained') / 'chain.db'}")
    else:
        with new_database(request.getfixturevalue("postgres_url")) as url:
            yield from _chained(url)


def _chained(url: str) -> Iterator[Database]:
    with Database(Settings(environment="demo", database_url=url)) as database:
        schema.upgrade(database)
        with database.write() as session:
            for number in range(1, LENGTH + 1):
                change = {"field": "value", "old": number, "new": "Grüße" if number % 3 else None}
                event = Event("visit:amended", "visit", f"v{number}", number, [change], "a reason")
                audit.append(session, audit.SYSTEM, CHAIN, [event])
            audit.append(session, audit.SYSTEM, OTHER, [event])
        with database.write() as session:
            _take_walls_away(session, database)
        yield database


def _take_walls_away(session: Session, database: Database) -> None:
    if not database.is_sqlite:
        session.execute(text("ALTER TABLE audit_entry DISABLE TRIGGER USER"))
        session.execute(text("ALTER TABLE audit_chain DISABLE TRIGGER USER"))
        return
    named = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ('audit_entry', 'audit_chain')"
    for name in session.execute(text(named)).scalars().all():
        session.execute(text(f"DROP TRIGGER {name}"))


class Lab:
    """Tampers in a savepoint, verifies, and undoes it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.noted = audit.heads(session)
        self.tried = 0

    def found(self, *statements: tuple[str, dict[str, Any]], checkpoint: bool = False) -> dict[int, str | None]:
        """What verify says of each chain after the statements."""
        self.tried += 1
        with self.session.begin_nested() as undone:
            for statement, values in statements:
                self.session.execute(text(statement), values)
            verdicts = {one.site_id: one.fault for one in audit.verify(self.session, self.noted if checkpoint else {})}
            undone.rollback()
        return verdicts

    def fault(self, *statements: tuple[str, dict[str, Any]], checkpoint: bool = False) -> str | None:
        return self.found(*statements, checkpoint=checkpoint)[CHAIN]


@pytest.fixture
def lab(chained: Database) -> Iterator[Lab]:
    with Session(chained.engine) as session:
        yield Lab(session)
        session.rollback()


def shift(start: int, by: int) -> list[tuple[str, dict[str, Any]]]:
    """Move the entries from `start` on, by way of far numbers so that none meets another."""
    move = "UPDATE audit_entry SET seq = seq + :by WHERE site_id = 7 AND seq >= :start"
    return [(move, {"by": 10_000, "start": start}), (move, {"by": by - 10_000, "start": 10_000})]


def changed(column: str, number: int) -> tuple[str, dict[str, Any]]:
    other = {"at": "2020-01-01 00:00:00.000000", "subject_version": 9999, "seq": 9999, "site_id": 9}.get(column, "x")
    return (
        f"UPDATE audit_entry SET {column} = :value WHERE site_id = 7 AND seq = :number",
        {"value": other, "number": number},
    )


def test_the_untouched_chains_are_whole(lab: Lab) -> None:
    assert lab.found(checkpoint=True) == {CHAIN: None, OTHER: None}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_value_is_located(lab: Lab, column: str) -> None:
    for number in SAMPLE:
        fault = lab.fault(changed(column, number))
        cut_off = column in KEY and number == LENGTH
        expected = (
            "the head stands at entry 200, the entries end at 199"
            if column == "site_id" and cut_off
            else f"entry {number} is missing"
            if column in KEY
            else f"entry {number} does not follow entry {number - 1}"
            if column == "previous_hash"
            else f"entry {number} was changed"
        )
        assert fault == expected


def test_a_change_of_every_entry_is_located(lab: Lab) -> None:
    plain = [column for column in COLUMNS if column not in KEY | {"previous_hash"}]
    for number in range(1, LENGTH + 1):
        assert lab.fault(changed(plain[number % len(plain)], number)) == f"entry {number} was changed"
    assert lab.tried == LENGTH


def test_an_invalid_instant_is_located_and_does_not_stop_the_verification(lab: Lab, chained: Database) -> None:
    value = "no instant" if chained.is_sqlite else "infinity"
    statement = ("UPDATE audit_entry SET at = :v WHERE site_id = 7 AND seq = 5", {"v": value})
    assert lab.fault(statement) == "entry 5 was changed"


def test_every_deletion_is_located_with_the_gap_and_with_the_gap_closed(lab: Lab) -> None:
    for number in range(1, LENGTH):
        gone = ("DELETE FROM audit_entry WHERE site_id = 7 AND seq = :n", {"n": number})
        assert lab.fault(gone) == f"entry {number} is missing"
    for number in SAMPLE[:-1]:
        gone = ("DELETE FROM audit_entry WHERE site_id = 7 AND seq = :n", {"n": number})
        assert lab.fault(gone, *shift(number, -1)) == f"entry {number} does not follow entry {number - 1}"


def test_every_insertion_and_duplicate_is_located(lab: Lab) -> None:
    copied = ", ".join({"seq": ":to"}.get(column, column) for column in COLUMNS)
    copy = f"INSERT INTO audit_entry ({ALL}) SELECT {copied} FROM audit_entry WHERE site_id = 7 AND seq = :n"
    for number in range(1, LENGTH + 1, 4):  # entry n once more, as n + 1
        fault = lab.fault(*shift(number + 1, 1), (copy, {"n": number, "to": number + 1}))
        assert fault == f"entry {number + 1} does not follow entry {number}"


def test_neighbours_that_changed_places_are_located(lab: Lab) -> None:
    move = "UPDATE audit_entry SET seq = :to WHERE site_id = 7 AND seq = :n"
    for number in range(1, LENGTH):
        swap = [(number, -1), (number + 1, number), (-1, number + 1)]
        fault = lab.fault(*((move, {"n": one, "to": to}) for one, to in swap))
        assert fault == f"entry {number} does not follow entry {number - 1}"


def test_an_entry_moved_across_chains_is_located_in_both(lab: Lab) -> None:
    for number in SAMPLE[:-1]:
        move = "UPDATE audit_entry SET site_id = 8, seq = 2 WHERE site_id = 7 AND seq = :n"
        found = lab.found((move, {"n": number}))
        assert found == {CHAIN: f"entry {number} is missing", OTHER: "entry 2 does not follow entry 1"}


def test_a_cut_at_every_length_is_found_by_the_head_and_with_the_head_cut_too_by_a_checkpoint(lab: Lab) -> None:
    hashes = {entry["seq"]: entry["hash"] for entry in audit.entries(lab.session, CHAIN)} | {0: GENESIS}
    for kept in range(LENGTH):
        cut = ("DELETE FROM audit_entry WHERE site_id = 7 AND seq > :n", {"n": kept})
        head = ("UPDATE audit_chain SET seq = :n, hash = :h WHERE site_id = 7", {"n": kept, "h": hashes[kept]})
        assert lab.fault(cut) == f"the head stands at entry 200, the entries end at {kept}"
        expected = f"entry {kept + 1} is missing: the checkpoint stands at entry 200"
        assert lab.fault(cut, head, checkpoint=True) == expected


def test_a_chain_that_is_gone_with_its_head_is_found_by_a_checkpoint(lab: Lab) -> None:
    gone = [(f"DELETE FROM {table} WHERE site_id = 7", {}) for table in ("audit_entry", "audit_chain")]
    assert lab.fault(*gone, checkpoint=True) == "entry 1 is missing: the checkpoint stands at entry 200"


def rewritten(lab: Lab, start: int) -> list[tuple[str, dict[str, Any]]]:
    """The chain written anew from an entry on, with every hash and the head reckoned again."""
    statements: list[tuple[str, dict[str, Any]]] = []
    previous = GENESIS
    for entry in audit.entries(lab.session, CHAIN):
        if entry["seq"] >= start:
            entry["previous_hash"] = previous
            if entry["seq"] == start:
                entry["changes"] = json.dumps([])
            entry["hash"] = audit.entry_hash(entry)
            update = "UPDATE audit_entry SET changes = :changes, previous_hash = :previous_hash, hash = :hash"
            statements.append((f"{update} WHERE site_id = 7 AND seq = :seq", entry))
        previous = entry["hash"]
    head = "UPDATE audit_chain SET hash = :h WHERE site_id = 7"
    return [*statements, (head, {"h": previous})]


def test_a_whole_rewrite_passes_for_whole_and_only_a_checkpoint_finds_it(lab: Lab) -> None:
    for start in SAMPLE:
        forged = rewritten(lab, start)
        assert lab.fault(*forged) is None, "the forgery is not good enough for this test"
        expected = "entry 200 is not the one of the checkpoint: the chain was rewritten"
        assert lab.fault(*forged, checkpoint=True) == expected


def test_a_checkpoint_taken_earlier_holds_for_a_chain_that_has_grown(lab: Lab) -> None:
    entry = next(one for one in audit.entries(lab.session, CHAIN) if one["seq"] == 100)
    lab.noted = {CHAIN: Head(100, entry["hash"])}
    assert lab.fault(checkpoint=True) is None
