"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-06): a retried request gets the first answer again.

The answer is stored with the effect, so its primary key decides between equal requests: one of them stores both, the
others store nothing and answer as the first one did. On PostgreSQL the first one also holds an advisory lock, so that
the others need not do the same work meanwhile; on SQLite, which has one writer, they queue.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import BigInteger, Connection, and_, bindparam, func, literal, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import Session

from app import pid
from app.access import Actor
from app.database import LOCKED, sqlstate
from app.errors import Conflict, DatabaseUnavailable, Invalid, Malformed, NotFound, RegistryError
from app.models.among import among
from app.models.base import canonical_json, fields_of, new_row, table_of
from app.models.idempotency import IdempotencyRecord
from app.security.keys import Keyring
from app.writing import Writes, store

_RECORDS = table_of(IdempotencyRecord)
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_QUOTED = re.compile(r'"([\x21\x23-\x5b\x5d-\x7e]+)"', re.ASCII)
"""As the draft writes a key: a string of RFC 8941."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

WAIT_MILLISECONDS = 2_000
"""How long a request waits for an equal one that is at work."""

_SINCE_0_1_0 = {
    "DoseCreate": {"reason"},
    "ParticipantCreate": {"pid"},
    "StatusChange": {"correction"},
    "VitalsCreate": {"reason"},
}
"""Fields that bodies of this shape got after version 0.1.0. Not needed any more REGISTRY_RETRY_DAYS after the
upgrade."""


def _unknown(body: BaseModel) -> dict[str, Any]:
    """The fields of a body and its parts that version 0.1.0 did not have and that were not sent: left out of its
    digest."""
    later = _SINCE_0_1_0.get(type(body).__name__, set()) - body.model_fields_set
    parts = {name: _unknown(part) for name, part in body if isinstance(part, BaseModel)}
    return {**dict.fromkeys(later, True), **{name: unknown for name, unknown in parts.items() if unknown}}


class IdempotencyKeyMissing(Malformed):
    """A POST that creates needs an Idempotency-Key header of 1 to 255 printable ASCII characters: a UUID of your own,
    the same for every retry."""


class IdempotencyKeyReused(Invalid):
    """This Idempotency-Key was used for another request."""


class IdempotencyKeyInFlight(Conflict):
    """The first request with this Idempotency-Key has not ended. Send the same again a little later."""


class AnsweredMeanwhile(Exception):
    """An equal request was committed while this one was at work."""


@dataclass(frozen=True)
class Made:
    """What a creating request made: the answer, where it lives now, its ETag, its site if it has one, and what is still
    to be stored for it."""

    answer: BaseModel
    location: str
    etag: str | None = None
    site_id: int | None = None
    writes: Writes = field(default_factory=Writes)


class Reply(NamedTuple):
    """The answer to a request, as it is kept for retries."""

    text: str
    status: int
    location: str | None
    etag: str | None
    replayed: bool = False


class Once:
    """The promise of one request to happen once. A dry run does all of it and stores nothing."""

    def __init__(self, keyring: Keyring, place: tuple[str, str], key: str, *, dry_run: bool = False) -> None:
        """`place` is the method and the path: a key is for one of them."""
        self._keyring, self._place, self.dry_run = keyring, place, dry_run
        plain = _plain(key)
        self.digest = keyring.digest("idempotency", plain.encode())
        self.earlier = keyring.digest("idempotency", key.encode()) if key != plain else None
        """Version 0.1.0 took keys as they came. REGISTRY_RETRY_DAYS after the upgrade nobody needs this any more."""

    def create(
        self,
        session: Session,
        actor: Actor,
        body: BaseModel,
        make: Callable[[], Made],
        status: int = 201,
        seen: Callable[[], object] | None = None,
    ) -> Response:
        """Answer with what `make` creates, or with what an equal request was told. What belongs to no one site is told
        again only when it is `seen`, which raises NotFound."""
        if self.dry_run:
            return self.tried(session, make)
        reply = self.tell(session, actor, body, make, status)
        if reply.replayed and seen is not None:
            seen()
        return located(reply)

    def tried(self, session: Session, make: Callable[[], Made]) -> Response:
        """What would be answered."""
        would = make()
        store(session, would.writes)
        session.rollback()
        text = canonical_json({"dry_run": True, "answer": would.answer.model_dump(mode="json")})
        return Response(text, 200, media_type="application/json")

    def tell(
        self, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made], status: int = 201
    ) -> Reply:
        """The same, for whoever writes the answer in a form of their own. Raises IdempotencyKeyReused,
        IdempotencyKeyInFlight, NotFound, and what `make` raises."""
        earlier = self._first_in_line(session, actor, body)
        if earlier is not None:
            return earlier
        with suppress(AnsweredMeanwhile, IntegrityError):  # somebody stored what this would have
            return self._decided(session, actor, body, make, status)
        try:  # now it is seen, and refused by its name
            return self._decided(session, actor, body, make, status)
        except AnsweredMeanwhile:
            raise IdempotencyKeyInFlight(headers={"Retry-After": "1"}) from None

    def _decided(self, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made], status: int) -> Reply:
        """What `make` gives or raises, unless an equal request was answered meanwhile; that may be the reason why this
        one is refused. Raises AnsweredMeanwhile where its answer is gone again."""
        try:
            return self.attempt(session, actor, body, make, status)
        except DatabaseUnavailable:
            raise
        except (RegistryError, AnsweredMeanwhile, IntegrityError):
            session.rollback()
            earlier = self.again(actor, body, answers_of(session, actor, [self]).get(self.digest))
            if earlier is None:
                raise
            return earlier

    def attempt(
        self, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made], status: int = 201
    ) -> Reply:
        """Make it and store it with its answer, whatever was answered before. Raises AnsweredMeanwhile."""
        writes = Writes()
        reply = self.collect(writes, actor, body, None, make, status)
        if not store(session, writes):
            raise AnsweredMeanwhile
        return reply

    def collect(
        self,
        writes: Writes,
        actor: Actor,
        body: BaseModel,
        earlier: Mapping[str, Any] | None,
        make: Callable[[], Made],
        status: int = 201,
    ) -> Reply:
        """What an equal request was told, or what `make` creates, which is added with its answer to what is going to be
        stored. Raises NotFound, IdempotencyKeyReused, and what `make` raises."""
        reply = self.again(actor, body, earlier)
        if reply is None:
            made = make()
            reply = Reply(made.answer.model_dump_json(), status, made.location, made.etag)
            writes += made.writes
            writes.answers.append(self._kept(actor, body, made.site_id, reply))
        return reply

    def _kept(self, actor: Actor, body: BaseModel, site_id: int | None, reply: Reply) -> dict[str, Any]:
        """The row that keeps an answer for retries."""
        given = {
            "account_id": actor.account_id,
            "key_digest": self.digest,
            "request_digest": self._request_digest(body),
            "site_id": site_id,
            "status": reply.status,
            "location": reply.location,
            "etag": reply.etag,
            "body": reply.text,
        }
        return new_row(IdempotencyRecord, given)

    def again(self, actor: Actor, body: BaseModel, record: Mapping[str, Any] | None) -> Reply | None:
        """The first answer again, if there is one and the actor may still see the site it was about. Raises NotFound,
        IdempotencyKeyReused."""
        if record is None:
            return None
        if record["request_digest"] not in self._digests(body):
            raise IdempotencyKeyReused
        if record["site_id"] is not None and record["site_id"] not in actor.site_ids:
            raise NotFound
        return Reply(record["body"], record["status"], record["location"], record["etag"], replayed=True)

    def _first_in_line(self, session: Session, actor: Actor, body: BaseModel) -> Reply | None:
        """What an equal request was told, once none is at work. Raises IdempotencyKeyInFlight too."""
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            lock = int(self.digest[:15], 16) ^ (actor.account_id.int >> 68)
            named = {"account": actor.account_id, "digest": self.digest, "lock": lock}
            row = connection.execute(_ANSWER_AND_LOCK, named).one()
            if row.alone and (row.key_digest or self.earlier is None):
                return self.again(actor, body, fields_of(row) if row.key_digest else None)
            if not row.alone:
                _wait_for(connection, lock)
        return self.again(actor, body, answers_of(session, actor, [self]).get(self.digest))

    def _digests(self, body: BaseModel) -> Iterator[str]:
        """Of a request that is equal to this one. Version 0.1.0 kept the digest of every field that it knew."""
        yield self._request_digest(body)
        yield self._digest_of(body.model_dump(mode="json", exclude=_unknown(body)))

    def _request_digest(self, body: BaseModel) -> str:
        """Of what was sent only: a field that comes with a later version does not make another request of a retry."""
        return self._digest_of(body.model_dump(mode="json", exclude_unset=True))

    def _digest_of(self, asked: object) -> str:
        """Keyed, as a body may hold a label that could be guessed."""
        return self._keyring.digest("idempotency", canonical_json([*self._place, asked]).encode())


def _plain(key: str) -> str:
    """The key without quotes, a UUID in lower case as sync reads its ids: both cases are the same UUID (RFC 9562,
    section 4), and an app may write its act's id either way."""
    quoted = _QUOTED.fullmatch(key)
    bare = quoted[1] if quoted else key
    return bare.lower() if _UUID.fullmatch(bare) else bare


def amended(once: Once | None, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made]) -> Response:
    """Answer with the record as a correction leaves it. A retry under the same key gets the same answer, whoever
    changed the record since, as the version that the correction left is stored with it."""
    if once is not None:
        return once.tried(session, make) if once.dry_run else _response(once.tell(session, actor, body, make, 200))
    made = make()
    return _response(Reply(made.answer.model_dump_json(), 200, made.location, made.etag))


def located(reply: Reply) -> Response:
    """The answer that tells what was made, and where it is."""
    return _response(reply, {"Location": reply.location})


def _response(reply: Reply, more: Mapping[str, str | None] | None = None) -> Response:
    named = {**(more or {}), "ETag": reply.etag, "Idempotent-Replayed": "true" if reply.replayed else None}
    headers = {name: value for name, value in named.items() if value is not None}
    return Response(reply.text, reply.status, headers, media_type="application/json")


def answers_of(session: Session, actor: Actor, asked: Iterable[Once]) -> dict[str, Mapping[str, Any]]:
    """What equal requests of the account were told before, by digest of the key."""
    digests = {digest: one.digest for one in asked for digest in (one.earlier, one.digest) if digest is not None}
    named = {"account": actor.account_id, "digests": sorted(digests)}
    return {digests[row.key_digest]: fields_of(row) for row in session.connection().execute(_ANSWERS, named)}


def _wait_for(connection: Connection, lock: int) -> None:
    """Until an equal request is committed or has failed. Raises IdempotencyKeyInFlight."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {WAIT_MILLISECONDS}")
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")
    except OperationalError as error:
        if sqlstate(error) != LOCKED:
            raise
        raise IdempotencyKeyInFlight(headers={"Retry-After": "1"}) from None
    connection.exec_driver_sql("SET LOCAL lock_timeout = DEFAULT")


_OF_ACCOUNT = _RECORDS.c.account_id == bindparam("account")
_ANSWERS = select(_RECORDS).where(_OF_ACCOUNT, among(_RECORDS.c.key_digest, "digests"))
_ANSWER_AND_LOCK = select(
    func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)).label("alone"), *_RECORDS.c
).select_from(
    select(literal(1).label("one"))
    .subquery()
    .outerjoin(_RECORDS, and_(_OF_ACCOUNT, _RECORDS.c.key_digest == bindparam("digest")))
)
"""The kept answer and the lock at once. If the first request commits in between, the answer is met when this one
stores."""


def require_key(key: object) -> str:
    """A key as clients may choose them. Raises IdempotencyKeyMissing."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise IdempotencyKeyMissing
    return key


async def _once(
    request: Request,
    key: Annotated[str | None, Header(alias="Idempotency-Key", description="A UUID of your own")] = None,
    dry_run: Annotated[bool, Query(description="Check everything, tell what would be answered, store nothing")] = False,
) -> Once:
    return Once(request.app.state.keyring, _place(request), require_key(key), dry_run=dry_run)


async def _once_if_asked(
    request: Request,
    key: Annotated[str | None, Header(alias="Idempotency-Key", description="Optional: a UUID of your own")] = None,
    dry_run: Annotated[bool, Query(description="With a key: check everything and store nothing")] = False,
) -> Once | None:
    return await _once(request, key, dry_run) if dry_run or key is not None else None


def _place(request: Request) -> tuple[str, str]:
    return request.method, _path(request)


def _path(request: Request) -> str:
    """The path, its pid written as in our own links: a retry may write it in another way."""
    path, symbols = str(request.scope["path"]), request.path_params.get("pid", "")
    try:
        return path.replace(symbols, pid.display(pid.normalise(symbols)))
    except ValueError:  # there is none, or it is about to be refused
        return path


OncePerKey = Annotated[Once, Depends(_once)]
OnceIfKeyed = Annotated[Once | None, Depends(_once_if_asked)]
"""For corrections, where If-Match already keeps a retry from being done twice."""
