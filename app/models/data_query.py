"""Data queries: questions of a monitor or a rule about recorded data, and the messages about each."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.models.base import now, one_of


class SubjectType(StrEnum):
    """What a data query is about. `missing_visit`: a visit of the protocol of which nothing is recorded."""

    adverse_event = "adverse_event"
    dosing_session = "dosing_session"
    missing_visit = "missing_visit"
    outcome = "outcome"
    participant = "participant"
    visit = "visit"


RECORDS = frozenset({SubjectType.adverse_event, SubjectType.dosing_session, SubjectType.outcome, SubjectType.visit})
"""Subjects with an id of their own; a participant is known by the pid, a missing visit by code and occurrence."""


class QueryOrigin(StrEnum):
    monitor = "monitor"
    rule = "rule"


class QueryState(StrEnum):
    answered = "answered"
    cancelled = "cancelled"
    closed = "closed"
    open = "open"


class QueryAction(StrEnum):
    """What a person can do with a data query; the route says who may."""

    answer = "answer"
    cancel = "cancel"
    close = "close"
    reopen = "reopen"


class MessageKind(StrEnum):
    answered = "answered"
    cancelled = "cancelled"
    closed = "closed"
    opened = "opened"
    reopened = "reopened"


_S, _A = QueryState, QueryAction
QUERY_TRANSITIONS: Mapping[QueryState, Mapping[QueryAction, QueryState]] = {
    _S.open: {_A.answer: _S.answered, _A.cancel: _S.cancelled},
    _S.answered: {_A.close: _S.closed, _A.reopen: _S.open, _A.cancel: _S.cancelled},
    _S.closed: {_A.reopen: _S.open},
    _S.cancelled: {},
}
"""What people may do in each state. A data query of a rule is also closed, answered or not, once the rule finds nothing
any more: then the correction was the answer."""

MESSAGE_OF: Mapping[QueryAction, MessageKind] = {
    _A.answer: MessageKind.answered,
    _A.cancel: MessageKind.cancelled,
    _A.close: MessageKind.closed,
    _A.reopen: MessageKind.reopened,
}
PENDING = frozenset({QueryState.open, QueryState.answered})
"""States in which somebody still has to act."""


class DataQuery(SQLModel, table=True):
    """One question. A rule has one data query for each fault that it finds, however often it finds it again."""

    __tablename__ = "data_query"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        UniqueConstraint("site_id", "rule_key"),
        one_of("subject_type", SubjectType),
        one_of("origin", QueryOrigin),
        one_of("state", QueryState),
        CheckConstraint(
            "(origin = 'rule') = (rule IS NOT NULL AND rule_key IS NOT NULL AND rule_holds IS NOT NULL)",
            name="rule_known",
        ),
        CheckConstraint("(origin = 'monitor') = (opened_by IS NOT NULL)", name="opener_known"),
        CheckConstraint("(state IN ('closed', 'cancelled')) = (closed_at IS NOT NULL)", name="end_known"),
        CheckConstraint(
            "(subject_type IN ('adverse_event', 'dosing_session', 'outcome', 'visit')) = (subject_id IS NOT NULL)",
            name="subject_known",
        ),
        CheckConstraint(
            "(subject_type = 'missing_visit') = (visit_code IS NOT NULL AND occurrence IS NOT NULL)", name="visit_known"
        ),
        Index("ix_data_query_page", "site_id", "opened_at", "id"),
        Index("ix_data_query_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    subject_type: SubjectType = Field(sa_type=String(16))
    subject_id: UUID | None = None
    visit_code: str | None = Field(default=None, max_length=64)
    occurrence: int | None = None
    field: str | None = Field(default=None, max_length=200)
    """JSON Pointer into the record as its own route answers it; None: the record as a whole."""

    text: str = Field(sa_column=Column(Text, nullable=False))
    origin: QueryOrigin = Field(sa_type=String(16))
    rule: str | None = Field(default=None, max_length=64)
    rule_key: str | None = Field(default=None, max_length=255)
    """Rule and record in one text. It is unique at a site, so that a fault has one data query, whoever finds it
    first."""

    rule_holds: bool | None = None
    """Whether the rule still finds the fault. A closed data query is opened again only if this was false meanwhile."""

    state: QueryState = Field(default=QueryState.open, sa_type=String(16))
    opened_by: UUID | None = Field(default=None, foreign_key="account.id")
    opened_at: datetime = Field(default_factory=now)
    open_since: datetime = Field(default_factory=now)
    """When it was opened, or last opened again after it was closed. Its age counts from here."""

    answered_at: datetime | None = None
    closed_at: datetime | None = None
    """When it was closed or cancelled, while it is."""

    version: int = 1
    updated_at: datetime = Field(default_factory=now)


class DataQueryMessage(SQLModel, table=True):
    """One message about a data query. The database refuses to change or delete it."""

    __tablename__ = "data_query_message"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "query_id"], ["data_query.site_id", "data_query.id"]),
        one_of("kind", MessageKind),
    )

    site_id: int = Field(primary_key=True)
    query_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    """The version of the data query that the message made; 1 is the question."""

    kind: MessageKind = Field(sa_type=String(16))
    author: UUID | None = Field(default=None, foreign_key="account.id")
    """None: the rule."""

    at: datetime = Field(default_factory=now)
    text: str = Field(sa_column=Column(Text, nullable=False))
