"""What hostile and unlucky clients do, how a database is made to fail, and how to see that nothing was kept."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from sqlalchemy import Connection, Engine, event, func, literal, select, union_all
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

from app.database import Database
from app.services.identity.grants import SITE_ROLES
from tests.actors import forget
from tests.server import PASSWORD, LiveServer
from tests.world import Caller, enrolment, protocol_definition

PROBLEM_KEYS = {"type", "title", "status", "code", "detail", "instance", "request_id", "errors"}
Census = dict[str, tuple[int, int]]


@cache
def _counting() -> str:
    """The statement of the census. Building it of all tables costs more than asking it."""
    counted = []
    for table in SQLModel.metadata.sorted_tables:
        progress = next((table.c[name] for name in ("version", "grants_version", "seq") if name in table.c), None)
        number = progress is not None and progress.type.python_type is int
        counted.append(select(literal(str(table.name)), func.count(), func.sum(progress) if number else literal(0)))
        counted[-1] = counted[-1].select_from(table)
    return str(union_all(*counted).compile(compile_kwargs={"literal_binds": True}))


def census(engine: Engine) -> Census:
    """Of each table the number of rows, and the sum of their versions (of audit chains: of their lengths)."""
    with engine.connect() as connection:
        counted = {name: (rows, int(total or 0)) for name, rows, total in connection.exec_driver_sql(_counting())}
        connection.commit()  # after a rollback the driver would have it planned anew: three times the price
        return counted


def grown(before: Census, after: Census) -> dict[str, int]:
    """How many rows each table that changed in number has gained; a chain's first entry also makes its head."""
    gained = {name: after[name][0] - before[name][0] for name in after if name != "audit_chain"}
    return {name: number for name, number in gained.items() if number}


def require_problem(answer: Any, *sent: str) -> dict[str, Any]:
    """The one shape of a refusal: a 4xx problem document that repeats nothing of what was sent."""
    assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem.keys() >= PROBLEM_KEYS
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    for text in sent:
        assert text not in answer.text
        assert not any(text in value for name, value in answer.headers.items() if name != "location")
    return problem


class Hits:
    """How often a fault was really met."""

    count = 0


@contextmanager
def failing_statement(engine: Engine, number: int) -> Iterator[Hits]:
    """The statement with this number (the first is 1) fails, once. The first looks the caller up."""
    hits, seen = Hits(), 0

    def fail(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            hits.count += 1
            raise OperationalError("injected", None, Exception("injected"))

    forget()
    event.listen(engine, "before_cursor_execute", fail)
    try:
        yield hits
    finally:
        event.remove(engine, "before_cursor_execute", fail)


@contextmanager
def failing_commit(database: Database, done: bool) -> Iterator[Hits]:
    """The next commit of a write fails: before anything is stored, or (`done`) stored, its acknowledgement lost."""
    hits, writing = Hits(), database._writing

    def fail(connection: Connection) -> None:
        if hits.count == 0:
            hits.count += 1
            if done:
                connection.connection.commit()
            raise OperationalError("injected", None, Exception("injected"))

    event.listen(writing, "commit", fail)
    try:
        yield hits
    finally:
        event.remove(writing, "commit", fail)


class LiveStudy:
    """A study with one site on a served registry, set up through HTTP, and a site app that writes there."""

    def __init__(self, server: LiveServer, http: httpx.Client) -> None:
        self.server, self.http = server, http
        self.study, self.site = f"live-{uuid4().hex[:12]}", "A"
        signed_in = http.post(
            "/v1/auth/sessions", json={"username": server.admin_username, "password": server.admin_password}
        )
        self.admin = Caller(http, signed_in.json()["access_token"])
        self._made("/v1/studies", {"code": self.study, "title": "A study to disturb"})
        self._made(f"/v1/studies/{self.study}/protocols", protocol_definition())
        self._made(f"/v1/studies/{self.study}/sites", {"code": self.site, "name": "Site A"})
        self.staff = self.caller("site_staff", sites=[self.site])

    def _made(self, path: str, body: Any) -> Any:
        answer = self.admin.post(path, body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def caller(self, role: str, **place: Any) -> Caller:
        """A new site app with this role, or a person where a site app may not hold it."""
        if role not in SITE_ROLES:
            return self._person(role)
        client = self._made("/v1/clients", {"name": "App", "organisation": f"Test {role}"})
        self._made(f"/v1/clients/{client['client_id']}/grants", {"role": role, "study": self.study, **place})
        secret = (client["client_id"], client["client_secret"])
        token = self.http.post("/v1/auth/token", data={"grant_type": "client_credentials"}, auth=secret)
        return Caller(self.http, token.json()["access_token"])

    def _person(self, role: str) -> Caller:
        named = {"username": f"u{uuid4().hex}", "display_name": "P", "organisation": f"Test {role}"}
        person = self._made("/v1/users", {**named, "password": PASSWORD})
        self._made(f"/v1/users/{person['id']}/grants", {"role": role, "study": self.study})
        body = {"username": named["username"], "password": PASSWORD}
        caller = Caller(self.http, self.http.post("/v1/auth/sessions", json=body).json()["access_token"])
        assert caller.post("/v1/me/password", {"current": PASSWORD, "new": "a phrase of my own"}).status_code == 204
        return caller

    def enrolment(self, **changes: Any) -> dict[str, Any]:
        return enrolment(self.study, self.site, **changes)

    def enrolled(self) -> str:
        """The pid of a new participant."""
        answer = self.staff.post("/v1/participants", self.enrolment())
        assert answer.status_code == 201, answer.text
        pid: str = answer.json()["pid"]
        return pid


@contextmanager
def live_study(server: LiveServer) -> Iterator[LiveStudy]:
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    with httpx.Client(base_url=server.base_url, timeout=20, limits=limits) as http:
        yield LiveStudy(server, http)


def request_text(method: str, path: str, token: str, body: bytes = b"", **headers: str) -> bytes:
    """A request as it goes over the wire. Content-Length is the body's unless given."""
    fields = {
        "Host": "registry",
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def connected(server: LiveServer) -> socket.socket:
    place = urlsplit(server.base_url)
    return socket.create_connection((place.hostname, place.port), timeout=10)


def abandon(server: LiveServer, sent: bytes, wait: float = 0.0, read: int = 0, reset: bool = False) -> bytes:
    """Send, read up to so many bytes, wait, and close; with `reset` the hard way (RST instead of FIN)."""
    with closing(connected(server)) as wire:
        wire.sendall(sent)
        got = wire.recv(read) if read else b""
        time.sleep(wait)
        if reset:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return got


def exchange(server: LiveServer, sent: bytes) -> bytes:
    """Send and read until the server closes or is silent for a moment."""
    got = b""
    with closing(connected(server)) as wire:
        wire.settimeout(0.3)
        try:
            wire.sendall(sent)
            while part := wire.recv(65_536):
                got += part
        except (TimeoutError, ConnectionError):
            pass
    return got
