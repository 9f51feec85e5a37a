"""The seeded rows. People are sent (COPY on PostgreSQL, tuples on SQLite), and the database makes visits, outcomes and
events of them by SQL, which is the fastest way. Indexes are kept.

Rows are stored in the order of time, as in a registry in use: everybody's first visit before anybody's second.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain, groupby
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Date, Table, bindparam, insert, select, text, update

from app import audit
from app.models.adverse_event import AdverseEvent
from app.models.audit import AuditChain, AuditEntry
from app.models.base import canonical_json, table_of
from app.models.consent import Consent
from app.models.participant import Participant

INSTRUMENTS = ("MADRS", "ISI", "GAD7")
VISITS = ("BL", "PREP1", "DOS1", "INT1A", "DOS2", "INT2A", "FU1")
STEP = 600
"""Seconds between a record of each person and the next record of each."""

_DAY = date(2025, 1, 2)
_SPEECH: Mapping[str, Mapping[str, str]] = {
    "postgresql": {"new_id": "gen_random_uuid()", "at": "{}.created_at + :later * interval '1 second'"},
    "sqlite": {
        "new_id": "lower(hex(randomblob(16)))",
        "at": "strftime('%Y-%m-%d %H:%M:%S', {0}.created_at, :later || ' seconds') || substr({0}.created_at, 20)",
    },
}

_VISIT = """
INSERT INTO visit (site_id, id, pid, visit_code, occurrence, occurred_on, status, findings, protocol_version_id,
                   version, created_by, created_at, updated_at)
SELECT p.site_id, {new_id}, p.pid, :code, 1, :day, 'completed', '[]', p.protocol_version_id, 1, p.created_by, {at}, {at}
FROM participant p ORDER BY p.created_at
"""
_OUTCOME = """
INSERT INTO outcome (site_id, id, pid, visit_id, instrument, instrument_version, items, origin, version, created_by,
                     created_at, updated_at)
SELECT v.site_id, {new_id}, v.pid, v.id, :instrument, '1', '{{}}', 'items', 1, v.created_by, {at}, {at}
FROM visit v WHERE v.visit_code = :code ORDER BY v.created_at
"""
_SCORE = """
INSERT INTO outcome_score (site_id, outcome_id, name, value, band, rule)
SELECT o.site_id, o.id, 'total', length(o.instrument) * 3, 'mild', o.instrument || '/1 sum/1' FROM outcome o
"""
_EVENT = """
INSERT INTO adverse_event (site_id, id, pid, term, codings, onset, onset_earliest, onset_latest, severity, death,
                           life_threatening, hospitalisation, disability, congenital_anomaly, medically_important,
                           serious, findings, version, created_by, created_at, updated_at)
SELECT p.site_id, {new_id}, p.pid, 'Headache', '[]', '2025-02-03', :day, :day, 'mild', false,
       false, :serious, false, false, false, :serious, '[]', 1, p.created_by, {at}, {at}
FROM participant p ORDER BY p.created_at
"""


@dataclass(frozen=True)
class Kept:
    """What all seeded rows have from elsewhere."""

    sites: Sequence[int]
    protocol_version_id: int
    author: UUID
    since: datetime


def fill(connection: Connection, kept: Kept, pids: Sequence[str], visits: int, events: int) -> None:
    """People with so many visits (three outcomes each) and so many adverse events, the first of them serious."""
    if connection.dialect.name == "postgresql":
        _trust(connection)
    _load(connection, table_of(Participant), _people(kept, pids))
    _load(connection, table_of(Consent), _consents(kept, pids))
    for number, code in enumerate(VISITS[:visits], 1):
        _run(connection, _VISIT, "p", code=code, day=_DAY, later=number * STEP)
        for instrument in INSTRUMENTS:
            _run(connection, _OUTCOME, "v", code=code, instrument=instrument, later=1)
    _run(connection, _SCORE)
    for number in range(events):
        later = (len(VISITS) + 1 + number) * STEP
        _run(connection, _EVENT, "p", day=_DAY, serious=number == 0, later=later)


def _trust(connection: Connection) -> None:
    """Foreign keys hold by the statements here. A superuser may leave out checks that cost more than rows do."""
    if connection.exec_driver_sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").scalar():
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")


def _run(connection: Connection, statement: str, source: str = "", **given: Any) -> None:
    speech = _SPEECH[connection.dialect.name]
    said = statement.format(new_id=speech["new_id"], at=speech["at"].format(source))
    typed = [bindparam(name, type_=Date()) for name, value in given.items() if isinstance(value, date)]
    connection.execute(text(said).bindparams(*typed), given)


def _people(kept: Kept, pids: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(pids):
        when = kept.since + timedelta(milliseconds=number)
        yield {
            "site_id": kept.sites[number % len(kept.sites)],
            "pid": one,
            "protocol_version_id": kept.protocol_version_id,
            "status": "enrolled",
            "status_on": _DAY,
            "enrolled_on": _DAY,
            "age_at_consent": 40,
            "sex": "F",
            "eligible": True,
            "unmet_criteria": "[]",
            "findings": "[]",
            "version": 1,
            "created_by": kept.author,
            "created_at": when,
            "updated_at": when,
        }


def _consents(kept: Kept, pids: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(pids):
        site = kept.sites[number % len(kept.sites)]
        given = {"version": "1", "given_on": _DAY, "scopes": '["main"]', "data_sharing": True}
        yield {"site_id": site, "pid": one, **given, "created_at": kept.since}


def remember_events(connection: Connection, author: UUID) -> None:
    """An entry for each adverse event, and the heads of the chains."""
    events = table_of(AdverseEvent)
    wanted = select(events.c.site_id, events.c.id, events.c.term, events.c.severity, events.c.created_at)
    ordered = connection.execute(wanted.order_by(events.c.site_id, events.c.created_at)).all()
    heads: list[dict[str, Any]] = []
    _load(connection, table_of(AuditEntry), _chains(ordered, str(author), heads))
    chains = table_of(AuditChain)
    for head in heads:  # a chain starts empty, and its head moves to an entry: the database takes nothing else
        connection.execute(insert(chains).values(site_id=head["chain"], seq=0, hash=audit.GENESIS))
        connection.execute(update(chains).where(chains.c.site_id == bindparam("chain")), head)


def _chains(events: Iterable[Any], author: str, heads: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for site_id, of_site in groupby(events, lambda event: event.site_id):
        previous, seq = audit.GENESIS, 0
        for seq, event in enumerate(of_site, 1):
            told = [{"field": name, "old": None, "new": getattr(event, name)} for name in ("severity", "term")]
            entry = {
                "site_id": site_id,
                "seq": seq,
                "at": event.created_at.astimezone(UTC),
                "actor": author,
                "action": "adverse-event:reported",
                "subject_type": "adverse_event",
                "subject_id": str(event.id),
                "subject_version": 1,
                "changes": canonical_json(told),
                "reason": None,
                "request_id": str(uuid4()),
                "previous_hash": previous,
            }
            previous = audit.entry_hash(entry)
            yield {**entry, "hash": previous}
        heads.append({"chain": site_id, "seq": seq, "hash": previous})


def _load(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """All of them, the quickest way that the driver has."""
    waiting = iter(rows)
    first = next(waiting, None)
    if first is None:
        return
    names = list(first)
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
            for row in chain([first], waiting):
                copy.write_row(list(row.values()))
        return
    put = [table.c[name].type.dialect_impl(connection.dialect).bind_processor(connection.dialect) for name in names]
    rows_of_text = (
        [value if process is None else process(value) for value, process in zip(row.values(), put, strict=True)]
        for row in chain([first], waiting)
    )
    marks = ", ".join("?" for _ in names)
    driver.executemany(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})", rows_of_text)
