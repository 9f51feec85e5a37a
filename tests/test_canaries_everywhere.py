"""Canaries in every field, header, query and path of every route; searched for in answers, logs, trail and tables."""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event

from app.privacy import vault
from app.web import problems
from tests.actors import forget
from tests.canaries import Canaries, overheard, pointers, search_database, with_unknown
from tests.hostile import LiveStudy, live_study
from tests.hostile_requests import NAMES, Target, Targets
from tests.server import LiveServer
from tests.test_canaries import database_text
from tests.world import Registry, World

Send = Callable[..., Any]
Operation = tuple[str, str, list[str]]
T = TypeVar("T")
FORMS = ("/v1/auth/token", "/v1/auth/revoke")
FORM_FIELDS = ("grant_type", "client_id", "client_secret", "refresh_token", "token", "scope", "token_type_hint")
HEADERS = (
    *("Accept", "Accept-Language", "Authorization", "Content-Encoding", "Content-Type", "Cookie", "Forwarded"),
    *("Idempotency-Key", "If-Match", "If-None-Match", "Origin", "Referer", "Traceparent", "User-Agent"),
    *("X-Forwarded-For", "X-Request-Id", "X-Unheard-Of"),
)

MISSHAPEN: tuple[Callable[[str], Any], ...] = (
    lambda mark: [mark],
    lambda mark: mark * 400,
    lambda mark: {mark: mark},
    lambda mark: f"{mark}\0",
)
"""Two of them for each field, by turns: a wrong type, and a text that is too long or that no column takes."""


@pytest.fixture(scope="module")
def targets(registry: Registry) -> Targets:
    return Targets(World(registry))


def of_this_engine(registry: Registry, routes: Iterable[T]) -> list[T]:
    """Every other route: what refuses a request before it is stored is the same code on both engines, and each route
    is spoken to on one of them. The failures that engines tell in their own words come on both, below."""
    return list(routes)[registry.database.engine.dialect.name == "sqlite" :: 2]


@contextmanager
def searched(registry: Registry) -> Iterator[Canaries]:
    """Whatever is marked inside is searched for everywhere when the block ends."""
    canaries = Canaries()
    with overheard() as heard:
        yield canaries
    assert '"event": "request"' in heard.getvalue()
    canaries.search("log", heard.getvalue())
    search_database(canaries, registry.database.engine)


def require_none(canaries: Canaries) -> None:
    assert canaries.leaks == [], "\n".join(sorted(set(canaries.leaks)))


def field_of(name: str, pointer: str) -> str:
    steps = [step for step in pointer.split("/") if step and not step.isdigit()]
    return "code of a person" if name == "confirm_totp" else steps[-1] if steps else name


def say_every_field(canaries: Canaries, name: str, target: Target) -> int:
    """Each value of a valid body marked: as it may be welcome, of a wrong type, too long, beside unknown names."""
    welcome = 0
    for number, pointer in enumerate(pointers(target.body)):
        known = field_of(name, pointer)
        mark = canaries.mark(known, name)
        answer = canaries.answered(target.send_json(target.with_value(pointer, mark)), mark)
        welcome += answer.is_success
        for shape in MISSHAPEN[number % 2 :: 2]:
            mark = canaries.mark(known, f"{name}, misshapen")
            canaries.answered(target.send_json(target.with_value(pointer, shape(mark))), mark)
    for pointer in ("", *pointers(target.body)):
        mark = canaries.mark("unknown", f"{name}{pointer}")
        value: Any = target.body
        for step in pointer.strip("/").split("/") if pointer else ():
            value = value[int(step) if isinstance(value, list) else step]
        if isinstance(value, dict):
            canaries.answered(target.send_json(with_unknown(target.body, pointer, mark)))
    return welcome


def say_around(canaries: Canaries, name: str, target: Target) -> None:
    """Marks in headers, the query, the path, and in bodies that cannot be read."""
    for header in HEADERS:
        mark = canaries.mark(header, name)
        canaries.answered(target.send_json(target.body, **{header: f"Bearer {mark}" if header[0:3] == "Aut" else mark}))
    whole = json.dumps(target.body)
    for content, kind in ((whole[:-5], None), (whole, "text/plain"), (whole + whole, None), (whole, "text/{}")):
        mark = canaries.mark("body", name)
        spoilt = f'{{"{mark}": "{mark}", {content[1:]}'.encode()
        canaries.answered(target.send(spoilt, **({"Content-Type": kind.format(mark)} if kind else {})))
    for way in ("?{0}={0}", "/{0}", "?cursor={0}&limit={0}"):
        mark = canaries.mark("address", name)
        answer = target.caller.raw(target.method, target.path + way.format(mark), whole.encode(), **target.headers)
        canaries.answered(answer)


def say_twice(canaries: Canaries, name: str, target: Target) -> None:
    """The same marked key again with the same body and with another one; the same body again with a new key."""
    mark = canaries.mark("Idempotency-Key", name)
    for key in (mark, mark, f"{mark}-other"):
        canaries.answered(target.send_json(target.body, **{"Idempotency-Key": key}))
    other = canaries.mark("reason", name)
    body = {**target.body, "reason": other} if "reason" in target.body else target.body
    canaries.answered(target.send_json(body, **{"Idempotency-Key": mark}), other)


@pytest.mark.parametrize("part", range(2))
def test_no_body_header_or_address_leaks(registry: Registry, targets: Targets, part: int) -> None:
    welcome = 0
    with searched(registry) as canaries:
        for name in of_this_engine(registry, NAMES)[part::2]:
            welcome += say_every_field(canaries, name, targets[name])
            say_around(canaries, name, targets[name])
            say_twice(canaries, name, targets[name])
    require_none(canaries)
    assert len(canaries.sent) > 300
    assert welcome > 3
    assert any(sent.stored for sent in canaries.sent)


def _operations(document: Any) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            asked = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
            yield method.upper(), path, asked


def say_to_each(canaries: Canaries, operations: Iterable[Operation], send: Send) -> None:
    """Marks in each path parameter, query parameter and header of these routes, and in a body of marks."""
    for method, path, asked in operations:
        place, body = path, None
        while "{" in place:
            place = place.partition("{")[0] + canaries.mark("path", path) + place.partition("}")[2]
        if method != "GET":
            mark = canaries.mark("body", path)
            body = json.dumps({mark: mark})
        canaries.answered(send(method, place, content=body))
        for name in (*asked, "unknown"):
            mark = canaries.mark(name, f"{method} {path}")
            canaries.answered(send(method, place, content=body, params={name: mark}))
            canaries.answered(send(method, place, content=body, params={mark: mark}))
        for header in HEADERS:
            mark = canaries.mark(header, f"{method} {path}")
            canaries.answered(send(method, place, content=body, headers={header: mark}))
    for path in FORMS:
        form = {name: canaries.mark(name, path) for name in FORM_FIELDS}
        for name in FORM_FIELDS:
            own = canaries.mark(name, path)
            for data in (form, {**form, own: own}, {"grant_type": "client_credentials", name: own}):
                canaries.answered(send("POST", path, data=data))
                canaries.answered(send("POST", path, data=data, auth=(own, own)))


def sender(http: Any, tokens: list[str]) -> Send:
    """Each request goes to somebody else of these, and a header of the request's own replaces theirs."""
    count = 0

    def send(method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        nonlocal count
        count += 1
        own = {"Authorization": f"Bearer {tokens[count % len(tokens)]}", "Idempotency-Key": str(uuid4())}
        own = {} if "auth" in more or "data" in more else {**own, "Content-Type": "application/json"}
        return http.request(method, path, headers={**own, **(headers or {})}, **more)

    return send


def test_no_address_query_header_or_form_of_any_route_leaks(registry: Registry, world: World) -> None:
    people = [world.staff_a, world.monitor, world.admin, world.analyst, world.custodian]
    send = sender(registry.client, [person.token for person in people])
    operations = of_this_engine(registry, _operations(registry.app.openapi()))
    with searched(registry) as canaries:
        say_to_each(canaries, operations, send)
    require_none(canaries)
    assert len(operations) > 45


def test_a_served_process_says_none_of_it_on_its_output(live_server: LiveServer) -> None:
    canaries = Canaries()
    with live_study(live_server) as live:
        operations = list(_operations(live.http.get("/v1/openapi.json").json()))
        say_to_each(canaries, operations[::4], sender(live.http, [live.staff.token, live.admin.token]))
        _enrol_marked(canaries, live)
    log = live_server.log.read_text()
    assert '"event": "request"' in log
    canaries.search("output of the process", log)
    canaries.search("database", database_text(live_server), but_stored=True)
    require_none(canaries)


def _enrol_marked(canaries: Canaries, live: LiveStudy) -> None:
    label, race = canaries.mark("site_local_id", "enrol"), canaries.mark("race", "enrol")
    for _ in range(2):
        canaries.answered(live.staff.post("/v1/participants", live.enrolment(site_local_id=label, race=race)), race)
    mark = canaries.mark("password", "user")
    user = {"username": f"u{uuid4().hex}", "display_name": "P", "organisation": "Test", "password": mark + "-phrase"}
    assert canaries.answered(live.admin.post("/v1/users", user)).is_success


OF_POSTGRESQL = {
    "constraint": "INSERT INTO audit_chain SELECT site_id, seq, '{mark}' FROM audit_chain",
    "too long": "UPDATE account SET login = repeat('{mark}', 20)",
    "wrong type": "SELECT '{mark}'::int",
    "timeout": "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1), '{mark}'",
    "connection lost": "SELECT pg_terminate_backend(pg_backend_pid()), '{mark}'",
    "no such table": "SELECT * FROM {mark}",
}
OF_SQLITE = {
    "constraint": "INSERT INTO audit_chain SELECT site_id, seq, '{mark}' FROM audit_chain",
    "check": "UPDATE account SET kind = '{mark}'",
    "wrong type": "SELECT json('{mark}')",
    "no such table": "SELECT * FROM {mark}",
}
"""What the database is really asked instead, and fails at with a text that repeats the mark."""


@contextmanager
def instead(engine: Engine, number: int, statement: str) -> Iterator[None]:
    """The statement with this number is another one, which really fails in the database and whose text is marked."""
    seen = 0

    def replace(*given: Any) -> tuple[str, Any]:
        nonlocal seen
        seen += 1
        return (statement, ()) if seen == number else (given[2], given[3])

    forget()
    event.listen(engine, "before_cursor_execute", replace, retval=True)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", replace)


def test_no_failure_of_the_database_leaks(registry: Registry, targets: Targets) -> None:
    engine = registry.served.of_sessions
    failures = OF_SQLITE if engine.dialect.name == "sqlite" else OF_POSTGRESQL
    prepared, failed = [(name, targets[name]) for name in NAMES], 0
    with searched(registry) as canaries:
        for failure, statement in failures.items():
            for name, target in prepared:
                for number in (1, 2, 4):
                    mark = canaries.mark(failure, name)
                    with instead(engine, number, statement.format(mark=mark)):
                        failed += canaries.answered(target.send_json(target.body)).status_code in {409, 500, 503}
    require_none(canaries)
    assert failed >= len(prepared) * len(failures)


def _hands_out_unknown_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(problems, "shown", str)


def _keeps_labels_open(patch: pytest.MonkeyPatch) -> None:
    def store(session: Any, keyring: Any, site_id: int, pid: str, label: str) -> None:
        open_label = vault.VaultIdentity(
            site_id=site_id, pid=pid, blind_index=uuid4().hex, kek_id="x", wrapped_key="x", ciphertext=label
        )
        session.add(open_label)

    patch.setattr(vault, "store_label", store)


def _logs_bodies(patch: pytest.MonkeyPatch) -> None:
    fault_of = problems.fault_of

    def telling(item: Any) -> Any:
        problems.log.warning("invalid", item=str(item))
        return fault_of(item)

    patch.setattr(problems, "fault_of", telling)


@pytest.mark.parametrize(
    ("spoil", "place"),
    [(_hands_out_unknown_names, "answer 422"), (_keeps_labels_open, "table vault_identity"), (_logs_bodies, "log")],
)
def test_a_leak_would_be_found(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None], place: str
) -> None:
    target = Targets(World(registry))["enrol"]
    spoil(monkeypatch)
    with searched(registry) as canaries:
        label = canaries.mark("site_local_id", "enrol")
        canaries.answered(target.send_json({**target.body, "site_local_id": label}), label)
        unknown = canaries.mark("unknown", "enrol")
        canaries.answered(target.send_json({**target.body, unknown: unknown}))
    monkeypatch.undo()
    _clean(registry)
    assert {leak.partition(":")[0] for leak in canaries.leaks} == {place}


def _clean(registry: Registry) -> None:
    """Take an open label out again, so that no later search of this database meets it."""
    with registry.database.migrating() as connection:
        connection.exec_driver_sql("DELETE FROM vault_identity WHERE kek_id = 'x'")


def test_a_secret_is_a_leak_even_in_the_answer_to_a_welcome_request(world: World) -> None:
    canaries = Canaries()
    mark = canaries.mark("site_local_id", "enrol")
    answer = world.staff_a.post("/v1/participants", world.enrolment(race=mark))
    assert canaries.answered(answer, mark).is_success
    assert canaries.leaks == ["answer, at race: enrol site_local_id"]


def test_the_log_is_overheard_with_its_tracebacks() -> None:
    with overheard() as heard:
        assert isinstance(heard, io.StringIO)
        try:
            raise ValueError("a text")
        except ValueError:
            problems.log.exception("defect")
    assert "a text" in heard.getvalue()
