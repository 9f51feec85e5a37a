"""The bodies, answers and filters of the routes of data queries."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, RootModel, Strict, StringConstraints, model_validator
from pydantic import Field as Bounded

from app.models.base import Answer, Code, Cursor, Days, Filter, InstantShown, Limit, LongText, Positive, Reason, Shape
from app.models.contradiction import contradiction
from app.models.data_query import RECORDS, MessageKind, QueryOrigin, QueryState, SubjectType
from app.models.identifiers import Pid, PidShown

Pointer = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_.\-]{1,64}){1,4}$", max_length=200)]
"""JSON Pointer (RFC 6901) to a field of the record as its own route answers it, without the outcomes of a visit. A
dose, reading or treatment is named by its place in the list or by its id, and kept by its id; a consent is kept by its
version and number, as `/consents/1.1`."""


class DataQueryCreate(Shape):
    participant: Pid
    subject_type: Annotated[SubjectType, Strict(False)]
    subject: UUID | None = Bounded(default=None, strict=False)
    """The id of the visit, outcome, adverse event or dosing session."""

    visit_code: Code | None = None
    occurrence: Positive | None = None
    """Of a missing visit, with its code."""

    field: Pointer | None = None
    """Absent: the record as a whole."""

    text: LongText

    @model_validator(mode="after")
    def _subject_fits(self) -> "DataQueryCreate":
        if (self.subject_type in RECORDS) != (self.subject is not None):
            message = "Visits, outcomes, adverse events and dosing sessions are named by subject"
            raise contradiction("subject_by_type", message, "subject")
        missing = self.subject_type is SubjectType.missing_visit
        if missing != (self.visit_code is not None) or missing != (self.occurrence is not None):
            raise contradiction("visit_by_type", "A missing visit is named by visit_code and occurrence", "visit_code")
        if missing and self.field is not None:
            raise contradiction("field_of_nothing", "A missing visit has no field", "field")
        return self


class DataQueryBulk(RootModel[Annotated[list[DataQueryCreate], Bounded(min_length=1, max_length=200)]]):
    model_config = ConfigDict(strict=True, frozen=True)


class DataQueryAnswer(Shape):
    text: LongText


class DataQueryClosure(Shape):
    decision: Literal["cancel", "close", "reopen"]
    reason: Reason


class MessageRead(Answer):
    number: int
    kind: MessageKind
    author: UUID | None
    author_name: str | None
    at: InstantShown
    text: str


class DataQueryRead(Answer):
    id: UUID
    participant: PidShown
    study: str
    site: str
    subject_type: SubjectType
    subject: UUID | None
    visit_code: str | None
    occurrence: int | None
    field: str | None
    text: str
    origin: QueryOrigin
    rule: str | None
    rule_holds: bool | None
    state: QueryState
    opened_by: UUID | None
    opened_at: InstantShown
    open_since: InstantShown
    answered_at: InstantShown | None
    closed_at: InstantShown | None
    version: int
    updated_at: InstantShown


class DataQueryDetail(DataQueryRead):
    messages: list[MessageRead]


class DataQueryList(Answer):
    items: list[DataQueryRead]
    next: str | None


class DataQueriesRaised(Answer):
    items: list[DataQueryRead]


class DataQueryFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    state: QueryState | None = None
    origin: QueryOrigin | None = None
    rule: Code | None = None
    subject_type: SubjectType | None = None
    subject: UUID | None = None
    older_than_days: Days | None = None
    """Only data queries not settled for more than so many days."""

    limit: Limit = 50
    cursor: Cursor = None


class StudyQuery(Filter):
    study: Code


class QueryCounts(Answer):
    """Numbers of data queries, and the ages in days of those that are open."""

    open: int
    answered: int
    closed: int
    cancelled: int
    median_age_days: float | None
    p90_age_days: float | None


class QueriesOfOrigin(QueryCounts):
    origin: QueryOrigin


class QueriesOfSite(QueryCounts):
    site: str
    by_origin: list[QueriesOfOrigin]


class MonitoringQueries(Answer):
    study: str
    sites: list[QueriesOfSite]
