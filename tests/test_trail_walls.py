"""The walls around the audit trail: what the server's own connection cannot do to it, on each engine."""

import re
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

from app import audit
from app.models.account import Role
from app.privileges import may
from tests.world import World

ATTACKS = (
    "UPDATE audit_entry SET actor = 'x'",
    "DELETE FROM audit_entry",
    "DELETE FROM audit_chain",
    "UPDATE audit_chain SET seq = seq + 1 WHERE site_id = 0",
    "UPDATE audit_chain SET seq = 0 WHERE site_id = 0",
    "UPDATE audit_chain SET hash = 'x' WHERE site_id = 0",
    "INSERT INTO audit_chain (site_id, seq, hash) VALUES (0, 9, 'x')",
    "INSERT INTO audit_entry ({all}) VALUES (0, 1, {rest}, '{genesis}', 'h')",
    "INSERT INTO audit_entry ({all}) VALUES (0, 1000000, {rest}, '{genesis}', 'h')",
    "INSERT INTO audit_entry ({all}) SELECT 0, max(seq) + 1, {rest}, 'forged', 'h' FROM audit_entry WHERE site_id = 0",
    "DROP TABLE audit_entry",
    "DROP TABLE audit_chain",
    "ALTER TABLE audit_entry ADD COLUMN more int",
    "ALTER TABLE audit_entry RENAME TO other",
    "CREATE TABLE mine (id int)",
    "CREATE TEMP TABLE audit_entry (id int)",
    "CREATE INDEX mine ON audit_entry (actor)",
)
ON_SQLITE = (
    "INSERT OR REPLACE INTO audit_entry SELECT * FROM audit_entry",
    "INSERT OR REPLACE INTO audit_chain SELECT site_id, 0, '{genesis}' FROM audit_chain",
    "REPLACE INTO audit_entry SELECT * FROM audit_entry WHERE seq = 1",
    "UPDATE OR REPLACE audit_entry SET seq = 1",
    "DROP TRIGGER audit_entry_follows",
    "DROP TRIGGER audit_entry_no_update",
    "PRAGMA recursive_triggers = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA journal_mode = DELETE",
    "UPDATE sqlite_master SET sql = ''",
    "DELETE FROM sqlite_master WHERE type = 'trigger'",
    "ATTACH ':memory:' AS other",
    "CREATE TRIGGER mine BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(IGNORE); END",
)
ON_POSTGRESQL = (
    "TRUNCATE audit_entry",
    "TRUNCATE audit_chain",
    "INSERT INTO audit_entry SELECT * FROM audit_entry ON CONFLICT (site_id, seq) DO UPDATE SET actor = 'x'",
    "ALTER TABLE audit_entry DISABLE TRIGGER ALL",
    "ALTER TABLE audit_entry DISABLE TRIGGER audit_entry_follows",
    "ALTER TABLE audit_entry DISABLE ROW LEVEL SECURITY",
    "DROP TRIGGER audit_entry_follows ON audit_entry",
    "DROP POLICY own_sites ON visit",
    "DROP FUNCTION audit_entry_follows() CASCADE",
    "CREATE OR REPLACE FUNCTION audit_entry_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "SET session_replication_role = replica",
    "SET SESSION AUTHORIZATION postgres",
    "GRANT ALL ON audit_entry TO PUBLIC; UPDATE audit_entry SET actor = 'x'",
    "COPY audit_entry TO PROGRAM 'true'",
    "CREATE SCHEMA mine",
)
_COLUMNS = "site_id, seq, at, actor, action, subject_type, subject_id, subject_version, changes, previous_hash, hash"


MISTAKEN = re.compile("syntax|does not exist|no such|has no column", re.IGNORECASE)
"""An attack that fails like this was written wrongly and proves nothing."""


def refusal(world: World, request: Any, attack: str) -> str:
    """What the database says to it."""
    with pytest.raises(DatabaseError) as refused, world.registry.served.write(request) as session:
        session.execute(text(attack.replace(":", r"\:")))
    return str(refused.value.orig)


def test_the_servers_own_connection_cannot_touch_the_trail(world: World) -> None:
    assert world.admin.post("/v1/clients", {"name": "App", "organisation": "Test"}).status_code == 201
    rest = "CURRENT_TIMESTAMP, 'x', 'x', 'x', 'x', 1, '[]'"
    request = world.request(world.account((Role.site_staff, "A")))
    for attack in (*ATTACKS, *(ON_SQLITE if world.on_sqlite else ON_POSTGRESQL)):
        said = refusal(world, request, attack.format(all=_COLUMNS, rest=rest, genesis=audit.GENESIS))
        assert not MISTAKEN.search(said), said
    with world.registry.database.read() as session:
        assert [verdict for verdict in audit.verify(session) if verdict.fault] == []


def test_what_is_never_changed_the_servers_own_connection_cannot_change(world: World) -> None:
    """On either engine, whatever the table: by the one list."""
    for table in SQLModel.metadata.sorted_tables:
        attacks = {f"UPDATE {table.name} SET {one.name} = {one.name}": ("UPDATE", one.name) for one in table.columns}
        for attack, (verb, column) in {**attacks, f"DELETE FROM {table.name}": ("DELETE", None)}.items():
            if not may(verb, table.name, column):
                said = refusal(world, None, f"{attack} WHERE 1 = 0")
                assert re.search("permission denied|prohibited|not authorized", said), said


def test_the_list_separates_columns_from_whole_rows() -> None:
    assert may("UPDATE", "visit", "status")
    assert may("UPDATE", "consent", "given_on")
    assert may("INSERT", "withdrawal", None)
    refused = (("UPDATE", "consent", "version"), ("UPDATE", "sae_report", "content"), ("DELETE", "visit", None))
    assert not any(may(*one) for one in (*refused, ("INSERT", "no_table", None)))
