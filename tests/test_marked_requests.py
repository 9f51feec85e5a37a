"""Marks in every field, header and path of every route that takes a body: they come out nowhere they do not belong.

What a site may write and read again (a term, a reason) may hold the mark in its record and in its entry's old and new
values. Identifiers and secrets may be nowhere at all.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import structlog
from httpx2 import Response
from sqlalchemy import event, select
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError
from sqlmodel import SQLModel
from structlog.testing import capture_logs

from app.models.audit import REGISTRY_CHAIN, AuditEntry
from app.models.base import table_of
from tests.hostile_requests import NAMES, Targets
from tests.world import Registry, World

MARK, HIDDEN = "Qq9CANARY9qQ", "Hh7SECRET7hH"
NOWHERE = frozenset({"site_local_id", "password", "current", "new", "totp", "code", "content_sha256"})
"""Fields that hold identifiers or secrets. (A study's or site's own `code` is not meant.)"""

ODD: tuple[Any, ...] = (MARK, MARK * 500, f"{MARK}\n\x00", {MARK: MARK}, [MARK], f"={MARK}()")


@pytest.fixture(scope="module")
def targets(registry: Registry) -> Targets:
    return Targets(World(registry))


@contextmanager
def everything_logged() -> Iterator[list[Any]]:
    """Every line, down to the least grave, as it would be written."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    try:
        with capture_logs() as logged:
            yield logged
    finally:
        structlog.configure(**before)


def leaves(body: Any, path: str = "") -> Iterator[str]:
    """JSON pointers of everything in a body that is no object."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in pairs:
        yield f"{path}/{name}"
        yield from leaves(value, f"{path}/{name}")


def secret(name: str, pointer: str) -> bool:
    last = pointer.rpartition("/")[2]
    return last in NOWHERE and not (last == "code" and name in {"study", "site", "event"})


def marked(targets: Targets, name: str) -> Iterator[tuple[str, Response]]:
    """Every answer of a route to requests that are marked in one place, with the mark."""
    target = targets[name]
    pointers = [pointer for pointer in leaves(target.body) if not pointer.startswith(("/visits/", "/eligibility/1"))]
    for pointer in pointers[:40]:
        if secret(name, pointer):
            yield HIDDEN, target.send_json(target.with_value(pointer, HIDDEN))
            yield HIDDEN, target.send_json(target.with_value(pointer, f"{HIDDEN} {HIDDEN}" * 100))
            continue
        for value in ODD:
            yield MARK, target.send_json(target.with_value(pointer, value))
    whole = json.dumps(target.body).encode()
    yield MARK, target.send_json({**target.body, MARK: MARK})
    yield MARK, target.send(whole[:-1] + f',"{MARK}"'.encode())
    yield MARK, target.send(whole, **{"Content-Type": f"text/{MARK}"})
    for header in ("If-Match", "X-Request-Id", "Idempotency-Key", "Accept", "Origin", MARK):
        if header != "If-Match" or target.method == "PATCH":
            yield MARK, target.send(b"{}", **{header: f'"{MARK}" \t'})
    yield MARK, target.caller.raw(target.method, f"{target.path}{MARK}", whole)
    yield MARK, target.caller.raw(target.method, f"{target.path}?{MARK}={MARK}", whole)
    yield MARK, target.caller.raw("GET", f"{target.path}/{MARK}", b"")


def require_silent(answer: Response, mark: str) -> None:
    """A refusal repeats nothing; an acceptance may show the record, but never an identifier or a secret."""
    shown = f"{dict(answer.headers)}{answer.text}"
    assert mark not in shown or (answer.is_success and mark == MARK), (answer.status_code, answer.text[:300])


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_is_in_no_refusal_and_in_no_log(targets: Targets, name: str) -> None:
    with everything_logged() as logged:
        answers = list(marked(targets, name))
    assert len(answers) > 12
    assert any(not answer.is_success for _, answer in answers)
    for mark, answer in answers:
        require_silent(answer, mark)
    log = json.dumps(logged)
    assert len(logged) >= len(answers)
    assert MARK not in log
    assert HIDDEN not in log


def test_the_search_finds_a_registry_that_repeats_what_it_was_sent(
    targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def echoed(kind: str, message: str, limits: str) -> str:
        return f"{MARK} is wrong"

    monkeypatch.setattr("app.web.problems._message", echoed)
    repeated = [mark in answer.text for mark, answer in marked(targets, "event") if not answer.is_success]
    assert any(repeated)


def test_marks_are_stored_only_where_they_were_meant(targets: Targets, registry: Registry) -> None:
    for name in NAMES:
        list(marked(targets, name))
    clinical = {"adverse_event", "visit", "idempotency_record", "sae_report", "ae_review"}
    monitored = {"data_lock", "verification", "verification_withdrawal"}
    meant = {
        *clinical,
        *monitored,
        "account",
        "study",
        "site",
        "extract",
        "protocol_version",
        "participant",
        "audit_entry",
    }
    with registry.database.engine.connect() as connection:
        for table in SQLModel.metadata.sorted_tables:
            text = "\n".join(repr(tuple(row)) for row in connection.execute(select(table)))
            assert HIDDEN not in text, table.name
            assert table.name in meant or MARK not in text, table.name
        entries = table_of(AuditEntry)
        of_sites = select(entries).where(entries.c.site_id != REGISTRY_CHAIN, entries.c.changes.contains(MARK))
        for entry in connection.execute(of_sites).mappings():
            assert MARK not in repr([value for column, value in entry.items() if column not in {"changes", "reason"}])
            assert not [change for change in json.loads(entry["changes"]) if MARK in change["field"]]


FAILURES = (IntegrityError, OperationalError, DataError, ProgrammingError, RuntimeError)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_a_database_error_that_carries_values_is_answered_and_logged_without_them(
    world: World, failure: type[Exception]
) -> None:
    """PostgreSQL puts the offending row into its error texts; so does this one, at every statement of a write."""
    pid, engine = world.enrolled(), world.registry.app.state.database.engine
    bodies = {
        "/v1/participants": world.enrolment(site_local_id=HIDDEN, race=MARK),
        "/v1/adverse-events": world.event(pid, term=MARK),
    }
    with everything_logged() as logged:
        answers = [
            failing_with_values(world, engine, failure, number, path, body)
            for path, body in bodies.items()
            for number in range(1, 9)
        ]
    for answer in answers:
        require_silent(answer, HIDDEN)
        require_silent(answer, MARK)
    refused = [answer for answer in answers if not answer.is_success]
    assert {answer.headers["content-type"] for answer in refused} == {"application/problem+json"}
    assert len(refused) > 8
    log = json.dumps(logged)
    assert failure.__name__ in log
    assert MARK not in log
    assert HIDDEN not in log


def failing_with_values(
    world: World, engine: Any, failure: type[Exception], number: int, path: str, body: dict[str, Any]
) -> Response:
    seen = 0

    def fail(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            text = f"DETAIL: Failing row contains ({parameters}, {MARK}, {HIDDEN})"
            raise failure(text) if failure is RuntimeError else failure(statement, parameters, Exception(text))

    event.listen(engine, "before_cursor_execute", fail)
    try:
        return world.staff_a.post(path, body, str(uuid4()))
    finally:
        event.remove(engine, "before_cursor_execute", fail)


def test_a_value_too_long_for_its_column_is_not_in_the_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past validation, as a defect of ours would let it: PostgreSQL refuses it, SQLite keeps it."""
    monkeypatch.setattr("app.services.adverse_events._columns", _too_long(world))
    with everything_logged() as logged:
        answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled()))
    if world.registry.database.is_sqlite:
        assert answer.status_code in {201, 500}
        return
    assert answer.status_code in {409, 500, 503}
    require_silent(answer, MARK)
    assert MARK not in json.dumps(logged)


def _too_long(world: World) -> Any:
    from app.services import adverse_events

    first = adverse_events._columns
    return lambda *given: {**first(*given), "term": MARK * 100}
