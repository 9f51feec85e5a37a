"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-06): a retried POST gets the first answer again.

The record of the answer is written in the transaction of the effect. Two equal requests at the same moment meet at its
primary key: the second waits for the first one's commit and then reads the answer.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, select

from app.access import Actor
from app.errors import Invalid, Malformed, NotFound
from app.models.base import canonical_json, now, table_of
from app.models.idempotency import IdempotencyRecord
from app.security.keys import Keyring

_RECORDS = table_of(IdempotencyRecord)
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


class IdempotencyKeyMissing(Malformed):
    """A POST that creates needs an Idempotency-Key header: a UUID of your own, the same for every retry."""


class IdempotencyKeyReused(Invalid):
    """This Idempotency-Key was used for another request."""


@dataclass(frozen=True)
class Made:
    """What a creating request made: the answer, where it lives now, its ETag, and its site if it has one."""

    answer: BaseModel
    location: str
    etag: str | None = None
    site_id: int | None = None


class Told(NamedTuple):
    """What a client is told of what it asked for."""

    text: str
    status: int
    location: str | None
    etag: str | None
    replayed: bool = False


class Once:
    """The promise of one request to happen once. A dry run does all of it and stores nothing."""

    def __init__(self, keyring: Keyring, place: tuple[str, str], key: str, *, dry_run: bool = False) -> None:
        """`place` is the method and the path: a key is for one of them."""
        self._keyring, self._place, self._key, self._dry_run = keyring, place, key, dry_run

    def create(
        self,
        session: Session,
        actor: Actor,
        body: BaseModel,
        make: Callable[[], Made],
        status: int = 201,
    ) -> Response:
        """Answer with what `make` creates, or with what an equal request was told."""
        if self._dry_run:
            would = make().answer
            session.rollback()
            text = canonical_json({"dry_run": True, "answer": would.model_dump(mode="json")})
            return Response(text, 200, media_type="application/json")
        told = self.tell(session, actor, body, make, status)
        named = {"Location": told.location, "ETag": told.etag, "Idempotent-Replayed": "true" if told.replayed else None}
        headers = {name: value for name, value in named.items() if value is not None}
        return Response(told.text, told.status, headers, media_type="application/json")

    def tell(
        self, session: Session, actor: Actor, body: BaseModel, make: Callable[[], Made], status: int = 201
    ) -> Told:
        """The same, for whoever writes the answer in a form of their own."""
        record = self._claim(session, actor, body)
        if record is not None:
            return self._replayed(actor, record)
        made = make()
        text = made.answer.model_dump_json()
        session.execute(
            update(_RECORDS)
            .where(*self._where(actor))
            .values(status=status, location=made.location, etag=made.etag, body=text, site_id=made.site_id)
        )
        return Told(text, status, made.location, made.etag)

    def _claim(self, session: Session, actor: Actor, body: BaseModel) -> IdempotencyRecord | None:
        """None when this request is the first; else the record of the first."""
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        digest = self._request_digest(body)
        claim = (
            dialect.insert(_RECORDS)
            .values(
                account_id=actor.account_id,
                key_digest=self._digest(),
                request_digest=digest,
                status=0,
                body="",
                created_at=now(),
            )
            .on_conflict_do_nothing()
            .returning(_RECORDS.c.key_digest)
        )
        if session.execute(claim).first() is not None:
            return None
        record = session.exec(select(IdempotencyRecord).where(*self._where(actor))).first()
        if record is None:  # of a site that is no longer the actor's, where row-level security hides it
            raise NotFound
        if record.request_digest != digest:
            raise IdempotencyKeyReused
        return record

    def _replayed(self, actor: Actor, record: IdempotencyRecord) -> Told:
        """The first answer again, if the actor may still see the site it was about."""
        if record.site_id is not None and record.site_id not in actor.site_ids:
            raise NotFound
        return Told(record.body, record.status, record.location, record.etag, replayed=True)

    def _where(self, actor: Actor) -> tuple[Any, ...]:
        return (
            _RECORDS.c.account_id == actor.account_id,
            _RECORDS.c.key_digest == self._digest(),
        )

    def _digest(self) -> str:
        return self._keyring.digest("idempotency", self._key.encode())

    def _request_digest(self, body: BaseModel) -> str:
        """Keyed, as the body may hold a label that could be guessed."""
        asked = [*self._place, body.model_dump(mode="json")]
        return self._keyring.digest("idempotency", canonical_json(asked).encode())


def require_key(key: object) -> str:
    """A key as clients may choose them. Raises IdempotencyKeyMissing."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise IdempotencyKeyMissing
    return key


def _once(
    request: Request,
    key: Annotated[str | None, Header(alias="Idempotency-Key", description="A UUID of your own")] = None,
    dry_run: Annotated[bool, Query(description="Check everything, tell what would be answered, store nothing")] = False,
) -> Once:
    place = (request.method, request.url.path)
    return Once(request.app.state.keyring, place, require_key(key), dry_run=dry_run)


OncePerKey = Annotated[Once, Depends(_once)]
