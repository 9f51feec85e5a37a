"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-06): a retried request gets the first answer again.

The answer is stored in the transaction of the record. Of equal requests only one can insert the answer's primary key:
it stores both, the others store nothing and give the same answer. On PostgreSQL the first one also takes an advisory
lock, so that the others wait instead of doing the same work; on SQLite, which has one writer, they queue.
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
from app.web.conditional import Seen, etag
from app.writing import Writes, store

_RECORDS = table_of(IdempotencyRecord)
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_QUOTED = re.compile(r'"([\x21\x23-\x5b\x5d-\x7e]+)"', re.ASCII)
"""As the draft writes a key: a string of RFC 8941."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

WAIT_MILLISECONDS = 2_000
"""How long a request waits for an equal one that is still being done."""

_SINCE_0_1_0 = {
    "DoseCreate": {"reason"},
    "ParticipantCreate": {"pid"},
    "StatusChange": {"correction"},
    "VitalsCreate": {"reason"},
}
"""Fields that were added to these bodies after version 0.1.0. Can be deleted REGISTRY_RETRY_DAYS after the last upgrade
from it."""


def _unknown(body: BaseModel) -> dict[str, Any]:
    """The fields of a body and its parts that version 0.1.0 did not have and that were not sent: its digest of the
    request did not include them."""
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
    """An equal request was committed while this one was being done."""


@dataclass(frozen=True)
class Made:
    """The result of a request that writes: the answer, the address of the record, its id and version if it has an ETag,
    its site if it has one, and the rows still to be stored."""

    answer: BaseModel
    location: str
    version: tuple[object, int] | None = None
    site_id: int | None = None
    writes: Writes = field(default_factory=Writes)

    def reply(self, keyring: Keyring, status: int) -> "Reply":
        tag = etag(keyring, *self.version) if self.version else None
        return Reply(self.answer.model_dump_json(), status, self.location, tag)


class Reply(NamedTuple):
    """The answer to a request, as it is kept for retries."""

    text: str
    status: int
    location: str | None
    etag: str | None
    replayed: bool = False


class Once:
    """Does a request at most once for each Idempotency-Key. A dry run checks everything and stores nothing."""

    def __init__(self, keyring: Keyring, place: tuple[str, str], key: str, *, dry_run: bool = False) -> None:
        """`place` is the method and path; the same key at another one is another key."""
        self._keyring, self._place, self.dry_run = keyring, place, dry_run
        plain = _plain(key)
        self.digest = keyring.digest("idempotency", plain.encode())
        self.earlier = keyring.digest("idempotency", key.encode()) if key != plain else None
        """The digest that version 0.1.0 stored, which did not normalise keys. Can be deleted REGISTRY_RETRY_DAYS after
        the last upgrade from it."""

    def create(
        self,
        session: Session,
        actor: Actor,
        body: BaseModel,
        make: Callable[[], Made],
        status: int = 201,
        seen: Callable[[], object] | None = None,
    ) -> Response:
        """Answer with what `make` creates, or with the stored answer to an equal request. For records that belong to no
        site, `seen` checks before a repeated answer that the actor may still read them; it raises NotFound."""
        if self.dry_run:
            return self.tried(session, make)
        reply = self.tell(session, actor, body, make, status)
        if reply.replayed and seen is not None:
            seen()
        return located(reply)

    def tried(self, session: Session, make: Callable[[], Made]) -> Response:
        """The answer of a dry run: what `make` would answer. Everything is rolled back."""
        would = make()
        store(session, would.writes)
        session.rollback()
        text = canonical_json({"dry_run": True, "answer": would.answer.model_dump(mode="json")})
        return Response(text, 200, media_type="application/json")

    def tell(
        self, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made], status: int = 201
    ) -> Reply:
        """`create` for callers that write the answer in another form. Raises IdempotencyKeyReused,
        IdempotencyKeyInFlight, NotFound, and what `make` raises."""
        earlier = self._first_in_line(session, actor, body)
        if earlier is not None:
            return earlier
        with suppress(AnsweredMeanwhile, IntegrityError):  # another request has stored this record or this answer
            return self._decided(session, actor, body, make, status)
        try:  # it is visible now: give its answer, or the refusal that names the conflict
            return self._decided(session, actor, body, make, status)
        except AnsweredMeanwhile:
            raise IdempotencyKeyInFlight(headers={"Retry-After": "1"}) from None

    def _decided(self, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made], status: int) -> Reply:
        """What `make` gives or raises. If it fails and an equal request was answered meanwhile, which may be the
        reason, give that answer. Raises AnsweredMeanwhile if that answer has been deleted since."""
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
        """Call `make` and store its rows and answer, without looking for an earlier answer. Raises
        AnsweredMeanwhile."""
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
        """The answer to an equal request (`earlier`), or else what `make` creates: its rows and its answer are added to
        `writes`. Raises NotFound, IdempotencyKeyReused, and what `make` raises."""
        reply = self.again(actor, body, earlier)
        if reply is None:
            made = make()
            reply = made.reply(self._keyring, status)
            writes += made.writes
            writes.answers.append(self._kept(actor, body, made.site_id, reply))
        return reply

    def _kept(self, actor: Actor, body: BaseModel, site_id: int | None, reply: Reply) -> dict[str, Any]:
        """The row that keeps an answer for retries."""
        columns = {
            "account_id": actor.account_id,
            "key_digest": self.digest,
            "request_digest": self._request_digest(body),
            "site_id": site_id,
            "status": reply.status,
            "location": reply.location,
            "etag": reply.etag,
            "body": reply.text,
        }
        return new_row(IdempotencyRecord, columns)

    def again(self, actor: Actor, body: BaseModel, record: Mapping[str, Any] | None) -> Reply | None:
        """The first answer again; None if there is none. Raises NotFound if the actor may no longer see its site, and
        IdempotencyKeyReused if the requests differ."""
        if record is None:
            return None
        if record["request_digest"] not in self._digests(body):
            raise IdempotencyKeyReused
        if record["site_id"] is not None and record["site_id"] not in actor.site_ids:
            raise NotFound
        return Reply(record["body"], record["status"], record["location"], record["etag"], replayed=True)

    def _first_in_line(self, session: Session, actor: Actor, body: BaseModel) -> Reply | None:
        """Wait until no equal request is being done, and give its answer, if there is one. Raises what `again` raises,
        and IdempotencyKeyInFlight."""
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
        """The digests that mark a stored request as equal to this one. Version 0.1.0 stored a digest over all fields
        that it knew, whether sent or not."""
        yield self._request_digest(body)
        yield self._digest_of(body.model_dump(mode="json", exclude=_unknown(body)))

    def _request_digest(self, body: BaseModel) -> str:
        """A digest over the fields that were sent: a field added by a later version then does not change it."""
        return self._digest_of(body.model_dump(mode="json", exclude_unset=True))

    def _digest_of(self, asked: object) -> str:
        """Keyed: a body may contain a site's label, and a plain hash of it could be found by guessing."""
        return self._keyring.digest("idempotency", canonical_json([*self._place, asked]).encode())


def _plain(key: str) -> str:
    """The key without quotes, a UUID in lower case as sync reads its ids: both cases are the same UUID (RFC 9562,
    section 4), and an app may write its act's id either way."""
    quoted = _QUOTED.fullmatch(key)
    bare = quoted[1] if quoted else key
    return bare.lower() if _UUID.fullmatch(bare) else bare


def amended(
    once: Once | None, seen: Seen, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made]
) -> Response:
    """Answer with the record as a correction leaves it. A retry under the same key gets the same answer, whoever
    changed the record since, as the version that the correction left is stored with it."""
    if once is not None:
        return once.tried(session, make) if once.dry_run else _response(once.tell(session, actor, body, make, 200))
    return _response(make().reply(seen.keyring, 200))


def located(reply: Reply) -> Response:
    """The answer with the record, and its address as `Location`."""
    return _response(reply, {"Location": reply.location})


def _response(reply: Reply, more: Mapping[str, str | None] | None = None) -> Response:
    named = {**(more or {}), "ETag": reply.etag, "Idempotent-Replayed": "true" if reply.replayed else None}
    headers = {name: value for name, value in named.items() if value is not None}
    return Response(reply.text, reply.status, headers, media_type="application/json")


def answers_of(session: Session, actor: Actor, asked: Iterable[Once]) -> dict[str, Mapping[str, Any]]:
    """The stored answers to the account's requests with these keys, by digest of the key."""
    digests = {digest: one.digest for one in asked for digest in (one.earlier, one.digest) if digest is not None}
    named = {"account": actor.account_id, "digests": sorted(digests)}
    return {digests[row.key_digest]: fields_of(row) for row in session.connection().execute(_ANSWERS, named)}


def _wait_for(connection: Connection, lock: int) -> None:
    """Wait until the equal request has committed or failed. Raises IdempotencyKeyInFlight after WAIT_MILLISECONDS."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {WAIT_MILLISECONDS}")
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")
    except OperationalError as error:
        if sqlstate(error) != LOCKED:
            raise
        raise IdempotencyKeyInFlight(headers={"Retry-After": "1"}) from None
    connection.exec_driver_sql("SET LOCAL lock_timeout = DEFAULT")


_OF_ACCOUNT = _RECORDS.c.account_id == bindparam("account")
_ANSWERS = select(_RECORDS).where(_OF_ACCOUNT, among(_RECORDS.c.key_digest, "digests", unseen=True))
_ANSWER_AND_LOCK = select(
    func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)).label("alone"), *_RECORDS.c
).select_from(
    select(literal(1).label("one"))
    .subquery()
    .outerjoin(_RECORDS, and_(_OF_ACCOUNT, _RECORDS.c.key_digest == bindparam("digest")))
)
"""Looks for the stored answer and tries to take the lock, in one statement. If the first request commits between the
two, the answer is found when this request is stored."""


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
    """The path with the pid in the form of our own links, as a retry may write the pid in another form."""
    path, symbols = str(request.scope["path"]), request.path_params.get("pid", "")
    try:
        return path.replace(symbols, pid.display(pid.normalise(symbols)))
    except ValueError:  # there is none, or it is about to be refused
        return path


OncePerKey = Annotated[Once, Depends(_once)]
OnceIfKeyed = Annotated[Once | None, Depends(_once_if_asked)]
"""For corrections. There If-Match already prevents that a retry is done twice, so the key is optional."""
