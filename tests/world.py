"""A small study to test in: two sites, somebody in every role, and the requests they make."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import Connection, Insert, insert, update
from sqlmodel import SQLModel, col, select

from app.access import load_actor
from app.database import Database
from app.models.account import Account, AccountKind, Role, RoleGrant
from app.models.base import canonical_json, new_row, now, table_of, values
from app.models.study import ProtocolVersion, Site, Study
from app.permissions import Permission

PROTOCOL = files("app.protocol") / "definitions" / "protocols" / "mdma-mdd-generic-1.toml"


@dataclass
class Registry:
    app: FastAPI
    client: TestClient
    database: Database
    """As the owner of the tables, who sees everything."""

    @property
    def served(self) -> Database:
        """As the server connects."""
        database: Database = self.app.state.database
        return database


@cache
def definition() -> str:
    return canonical_json(tomllib.loads(PROTOCOL.read_text()))


class Caller:
    """Somebody with a token. POSTs carry a fresh Idempotency-Key unless the test gives one."""

    def __init__(self, client: TestClient, token: str) -> None:
        self.client, self.token = client, token

    def get(self, path: str, **parameters: Any) -> Response:
        return self.client.get(path, params=parameters, headers=self.headers())

    def post(self, path: str, body: Any, key: str | None = None, **headers: str) -> Response:
        sent = self.headers(**{"Idempotency-Key": key or str(uuid4()), **headers})
        return self.client.post(path, json=body, headers=sent)

    def patch(self, path: str, body: Any, etag: str | None = None) -> Response:
        return self.client.patch(path, json=body, headers=self.headers(**({"If-Match": etag} if etag else {})))

    def raw(self, method: str, path: str, content: bytes, **headers: str) -> Response:
        sent = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4()), **headers}
        return self.client.request(method, path, content=content, headers=self.headers(**sent))

    def headers(self, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", **more}


def label() -> str:
    """A site's label that no other person has, and that looks like nobody's number."""
    return "L" + uuid4().hex[:14].translate(str.maketrans("0123456789", "ghijkmnpqr"))


def enrolment(study: str, site: str, **changes: Any) -> dict[str, Any]:
    """A valid enrolment of a new person."""
    return {
        "study": study,
        "site": site,
        "site_local_id": label(),
        "age_at_consent": 41,
        "sex": "F",
        "screened_on": "2025-01-02",
        "enrolled_on": "2025-01-20",
        "consent": {"version": "1", "given_on": "2025-01-02", "scopes": ["data_sharing", "main"]},
        "eligibility": {"met": True, "unmet": []},
        **changes,
    }


@cache
def _storing(model: type[SQLModel], by_database: bool) -> Insert:
    """The statement that stores a row, whose key may be the database's to give."""
    table = table_of(model)
    return insert(table).returning(table.c.id) if by_database else insert(table)


def added(connection: Connection, model: type[SQLModel], **given: Any) -> Any:
    """The key of a new row, stored without a model's bookkeeping and by a statement that is made once: every test
    makes some of these."""
    row = new_row(model, given)
    by_database = row["id"] is None
    if by_database:
        del row["id"]
    stored = connection.execute(_storing(model, by_database), row)
    return stored.scalar_one() if by_database else row["id"]


class World:
    """One study with the sites A and B, and callers for every role."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.study = f"study-{uuid4().hex[:12]}"
        self.site_ids: dict[str, int] = {}
        self.study_id = self._set_up()

    @property
    def on_sqlite(self) -> bool:
        return self.registry.served.is_sqlite

    def _set_up(self) -> int:
        with self.registry.database.engine.begin() as connection:
            study_id: int = added(connection, Study, code=self.study, title="A study to test in")
            protocol = {"version": "1", "title": "Generic", "definition": definition()}
            added(connection, ProtocolVersion, study_id=study_id, **protocol)
            for code in ("A", "B"):
                self.site_ids[code] = added(connection, Site, study_id=study_id, code=code, name=f"Site {code}")
            return study_id

    def account(self, *grants: tuple[Role, str | None], kind: AccountKind = AccountKind.user) -> Account:
        """An account with roles at sites of this study (None: the whole study)."""
        account = Account(kind=kind, login=f"u-{uuid4().hex}", display_name="Somebody", organisation="Test")
        with self.registry.database.engine.begin() as connection:
            added(connection, Account, **values(account))
            for role, site in grants:
                study_id = None if role is Role.admin else self.study_id
                site_id = self.site_ids[site] if site else None
                added(connection, RoleGrant, account_id=account.id, role=role, study_id=study_id, site_id=site_id)
        return account

    def token(self, account: Account) -> str:
        token: str = self.registry.app.state.tokens.issue(account.id, account.login, [], account.grants_version)
        return token

    def request(self, account: Account) -> Any:
        """What the database asks of a request: whose it is."""
        claims = self.registry.app.state.tokens.verify(self.token(account))
        actor = load_actor(self.registry.database, claims, Permission.visit_read)
        return SimpleNamespace(state=SimpleNamespace(actor=actor))

    def revoke(self, account: Account) -> None:
        """Take every grant back, as an admin's revocation does."""
        with self.registry.database.write() as session:
            theirs = update(RoleGrant).where(col(RoleGrant.account_id) == account.id)
            session.execute(theirs.values(revoked_at=now()))
            raised = account.grants_version + 1
            session.execute(update(Account).where(col(Account.id) == account.id).values(grants_version=raised))
        account.grants_version = raised

    def caller(self, *grants: tuple[Role, str | None]) -> Caller:
        """Somebody new with these grants."""
        return Caller(self.registry.client, self.token(self.account(*grants)))

    @cached_property
    def staff_a(self) -> Caller:
        return self.caller((Role.site_staff, "A"))

    @cached_property
    def staff_b(self) -> Caller:
        return self.caller((Role.site_staff, "B"))

    @cached_property
    def investigator(self) -> Caller:
        return self.caller((Role.investigator, "A"))

    @cached_property
    def monitor_a(self) -> Caller:
        return self.caller((Role.monitor, "A"))

    @cached_property
    def monitor(self) -> Caller:
        return self.caller((Role.monitor, None))

    @cached_property
    def analyst(self) -> Caller:
        return self.caller((Role.analyst, None))

    @cached_property
    def custodian(self) -> Caller:
        return self.caller((Role.custodian, None))

    @cached_property
    def admin(self) -> Caller:
        return self.caller((Role.admin, None))

    @cached_property
    def nobody(self) -> Caller:
        """Signed in, without any grant."""
        return self.caller()

    def enrolment(self, site: str = "A", **changes: Any) -> dict[str, Any]:
        """A valid enrolment of a new person."""
        return enrolment(self.study, site, **changes)

    def enrolled(self, site: str = "A", **changes: Any) -> str:
        """The pid of a new participant of a site."""
        staff = self.staff_a if site == "A" else self.staff_b
        answer = staff.post("/v1/participants", self.enrolment(site, **changes))
        assert answer.status_code == 201, answer.text
        pid: str = answer.json()["pid"]
        return pid

    def uploaded(self, noun: str, records: Sequence[Mapping[str, Any]], site: str = "A") -> list[str]:
        """The ids of records that a site sent in one upload, in their order: half of the time of single posts."""
        lines = [{"key": str(uuid4()), "record": record} for record in records]
        answer = staff(self, site).raw("POST", f"/v1/{noun}/bulk", json.dumps(lines).encode())
        assert answer.status_code == 200, answer.text
        return [json.loads(line)["location"].rpartition("/")[2] for line in answer.text.splitlines()]

    def visit(self, pid: str, code: str = "BL", on: str | None = "2025-01-25", **changes: Any) -> dict[str, Any]:
        """A valid visit."""
        return {"participant": pid, "visit_code": code, "occurred_on": on, "status": "completed", **changes}

    def event(self, pid: str, **changes: Any) -> dict[str, Any]:
        """A valid adverse event."""
        return {"participant": pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild", **changes}


Case = Callable[[World, Caller, str], Response]
"""A valid request by a caller, about a record of a site."""


def read_of(make: Callable[[World, str], Response | str], below: str = "") -> Case:
    """Of a new record, which `make` gives or names the path of; or of what lies below it."""
    return lambda world, caller, site: caller.get(_path(make(world, site)) + below)


def posted_below(make: Callable[[World, str], Response | str], below: str, body: Any) -> Case:
    return lambda world, caller, site: caller.post(f"{_path(make(world, site))}/{below}", body)


def _path(record: Response | str) -> str:
    return record if isinstance(record, str) else record.headers["Location"]


def madrs(*values: int) -> dict[str, Any]:
    """A MADRS administration with these item values (one value: all ten)."""
    given = values if len(values) == 10 else values * 10
    return {"instrument": "MADRS", "items": {f"MADRS_{number:02d}": value for number, value in enumerate(given, 1)}}


def protocol_definition() -> dict[str, Any]:
    """The generic protocol as the API takes it."""
    return dict(json.loads(definition()))


def grants_version(world: World, account: Account) -> int:
    with world.registry.database.read() as session:
        return session.exec(select(Account.grants_version).where(Account.id == account.id)).one()


def staff(world: World, site: str) -> Caller:
    return world.staff_a if site == "A" else world.staff_b


def made(world: World, site: str, path: str, body: Mapping[str, Any]) -> Response:
    """A record that the site's own staff made."""
    answer = staff(world, site).post(path, body)
    assert answer.status_code == 201, answer.text
    return answer


def without_role(world: World, account: Account, site: str | None = None) -> Caller:
    """The same account once its roles at a site, or all that it has in the study, were taken away; signed in anew."""
    theirs = [col(RoleGrant.account_id) == account.id, col(RoleGrant.study_id) == world.study_id]
    if site is not None:
        theirs.append(col(RoleGrant.site_id) == world.site_ids[site])
    with world.registry.database.write() as session:
        session.execute(update(RoleGrant).where(*theirs).values(revoked_at=now()))
        raised = Account.grants_version + 1
        session.execute(update(Account).where(col(Account.id) == account.id).values(grants_version=raised))
    account.grants_version = grants_version(world, account)
    return Caller(world.registry.client, world.token(account))
