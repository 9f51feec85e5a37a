"""Sync: the acts of an app that was offline, in any order, each under an id that the app made."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import (
    AfterValidator,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic import Field as Bounded
from pydantic_core import PydanticCustomError
from sqlalchemy import Column, String, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Cursor, Filter, InstantShown, Limit, Reason, Shape, canonical_json, now, one_of
from app.models.identifiers import PidShown


class SyncState(StrEnum):
    waiting = "waiting"
    """It waits for a record or participant that it refers to, for the registry to be available again, or for somebody
    to lift a lock or give a role. Each call tries it again."""

    stored = "stored"
    refused = "refused"
    """It is kept as it was sent, until it is sent again and can be done, or somebody corrects or discards it."""

    discarded = "discarded"


class SyncOperation(SQLModel, table=True):
    """One act of one account. Its content is encrypted, and erased when the act is stored or discarded."""

    __tablename__ = "sync_operation"
    __table_args__ = (one_of("state", SyncState),)

    account_id: UUID = Field(primary_key=True, foreign_key="account.id")
    id: UUID = Field(primary_key=True)
    digest: str = Field(max_length=64)
    """A keyed digest of the content, as an id is for one act only."""

    sealed: str | None = Field(default=None, sa_column=Column(Text))
    state: SyncState = Field(default=SyncState.waiting, sa_type=String(16))
    location: str | None = Field(default=None, max_length=200)
    etag: str | None = Field(default=None, max_length=64)
    problem: str | None = Field(default=None, sa_column=Column(Text))
    """The problem with which it was refused, or because of which it waits."""

    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


_PATH = (
    r"^/v1/(participants|visits|outcomes|adverse-events|dosing-sessions)"
    r"(/(@[0-9A-Fa-f-]{36}|[0-9A-Za-z-]{1,36}))?"
    r"(/[a-z-]{1,32}(/(@[0-9A-Fa-f-]{36}|[0-9A-Za-z-]{1,36})(/[a-z-]{1,32})?)?"
    r"|/consents/[0-9A-Za-z][0-9A-Za-z_.-]{0,63}/[0-9]{1,4}/voiding)?$"
)
_ETAG = r'^"[\x21\x23-\x7e]{1,64}"$'
_SEEN = r'^(@[0-9A-Fa-f-]{36}|"[\x21\x23-\x7e]{1,64}")$'


def _formed(form: str, code: str, message: str) -> AfterValidator:
    """A text must match this regular expression. The message says so in words, which people at a site understand."""
    pattern = re.compile(form, re.ASCII)

    def formed(text: str) -> str:
        if not pattern.fullmatch(text):
            raise PydanticCustomError(code, message)
        return text

    return AfterValidator(formed)


_A_PATH = "Must be a path of participants, visits, outcomes, adverse events or dosing sessions"
_AS_READ = "Must be an ETag as it was read, with its quotes"

Path = Annotated[
    str,
    StringConstraints(max_length=200),
    _formed(_PATH, "path_unknown", _A_PATH),
    Bounded(json_schema_extra={"pattern": _PATH}),
]
ETag = Annotated[str, _formed(_ETAG, "etag_format", _AS_READ), Bounded(json_schema_extra={"pattern": _ETAG})]
Seen = Annotated[
    str,
    _formed(_SEEN, "etag_format", f"{_AS_READ}, or @ and the id of an operation"),
    Bounded(json_schema_extra={"pattern": _SEEN}),
]

_MOST_LEVELS = 32
"""More than any request has, and fewer than any reader of JSON stops at."""


def _readable_again(body: dict[str, Any]) -> dict[str, Any]:
    """Check that a body can be stored and sent later: not nested deeper than JSON readers accept, and of text that has
    a UTF-8 form (RFC 7493, section 2.1)."""
    level: list[Any] = [body]
    for _ in range(_MOST_LEVELS):
        level = [inner for one in level for inner in _inside(one)]
    if any(isinstance(one, dict | list) for one in level):
        raise PydanticCustomError("nested_too_deep", f"Nested in more than {_MOST_LEVELS} levels")
    try:
        canonical_json(body).encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("unclean_text", "Lone surrogates are not allowed") from None
    return body


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


Body = Annotated[dict[str, Any], AfterValidator(_readable_again)]


class Operation(Shape):
    id: UUID = Bounded(strict=False)
    """Made by the app when the person acted. It is the idempotency key of the request."""

    method: Literal["POST", "PATCH"] = "POST"
    path: Path
    """The path of the single request. Here and in the body, `@` followed by the id of another operation stands for the
    record that it made. Of a dose or a reading, that is its dosing session, except after `/doses/` or `/vitals/`."""

    body: Body
    if_match: Seen | None = None
    """For a correction: the ETag that was seen, or `@` and the id of the operation whose record it corrects."""


class Unreadable(NamedTuple):
    """An element of the list that is no valid operation."""

    id: UUID | None
    """If that can be read."""

    faults: Sequence[Any]
    """As Pydantic found them, without what was sent."""


def _by_itself(sent: Any) -> Operation | Unreadable:
    """Read each operation by itself: an invalid one must not refuse the others, which may report a serious event."""
    try:
        return Operation.model_validate(sent)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        has_id = isinstance(sent, dict) and not any("id" in fault["loc"][:1] for fault in faults)
        return Unreadable(_ID.validate_python(sent["id"]) if has_id else None, faults)


_ID = TypeAdapter(UUID)


Sent = Annotated[Operation | Unreadable, PlainValidator(_by_itself, json_schema_input_type=Operation)]


class SyncCreate(Shape):
    operations: Annotated[list[Sent], Bounded(min_length=1, max_length=200)]


class SyncResult(Answer):
    id: UUID | None
    """The operation's id; null where it could not be read."""

    result: Literal["created", "replayed", "conflict", "invalid", "blocked", "discarded"]
    """`blocked`: it waits, and is tried again in the next call. `conflict`, `invalid`: it is kept as refused until you
    send it again or discard it; with code `operation_malformed`, `operation_id_reused` or `too_many_acts_refused` it is
    not kept."""

    waits_for: list[UUID]
    """Operations that it refers to and that are not stored yet. It is carried out as soon as they are."""

    waits_for_pids: list[PidShown]
    """Reserved pids that it refers to and that nobody is enrolled under yet."""

    location: str | None
    etag: str | None
    problem: dict[str, Any] | None
    """Why it was refused, or why it waits."""

    retry_after: int | None = None
    """How many seconds to wait before the next try."""


class SyncRead(Answer):
    results: list[SyncResult]
    """One for each operation, in the order sent; then those that waited from before and are done now."""


class SyncItem(Answer):
    id: UUID
    state: SyncState
    method: str | None
    path: str | None
    body: dict[str, Any] | None
    location: str | None
    problem: dict[str, Any] | None
    created_at: InstantShown


class SyncList(Answer):
    items: list[SyncItem]
    next: str | None


class SyncFilter(Filter):
    state: SyncState | None = None
    limit: Limit = 50
    cursor: Cursor = None


class UnsettledActs(Answer):
    """The acts that apps of a site sent and that are neither stored nor discarded: they wait for another act or a lock,
    or were refused. An act that was done by a single request meanwhile counts until its app calls again."""

    count: int
    oldest_at: InstantShown | None
    """When the oldest of them was received."""


class SyncResolution(Shape):
    decision: Literal["send", "discard"]
    reason: Reason
    body: Body | None = None
    """For `send`: the new body; absent: the same body again."""

    if_match: ETag | None = None
