"""Opening a site's own label of a participant (break-glass): asked for with a reason, approved by somebody else, read
once, within a day. The registry has no other identifying datum that could be opened."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Strict
from sqlalchemy import CheckConstraint, Column, String, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, LongReason, Reason, Shape, now, one_of
from app.models.extract import ApprovalDecision
from app.models.identifiers import Pid, PidShown

OPEN_FOR = timedelta(hours=24)
"""How long an approval lasts; short, as DHIS2 keeps its break-the-glass grants to hours."""


class DisclosureGround(StrEnum):
    safety = "safety"
    """The person, or those who treat them, must be reached."""

    duplicate = "duplicate"
    """The same person may be enrolled at two sites."""

    data_subject_request = "data_subject_request"
    """The person asked for access, correction or erasure (GDPR Art. 15 to 17)."""

    inspection = "inspection"
    """An inspector compares records with their source."""


class DisclosureStatus(StrEnum):
    requested = "requested"
    refused = "refused"
    approved = "approved"
    read = "read"


class LabelDisclosure(SQLModel, table=True):
    """One request to read one label, with its decision and use."""

    __tablename__ = "label_disclosure"
    __table_args__ = (
        one_of("ground", DisclosureGround),
        one_of("status", DisclosureStatus),
        CheckConstraint("decided_by IS NULL OR decided_by <> requested_by", name="second_person"),
        CheckConstraint(
            "(status = 'requested') = (decided_by IS NULL) AND (status = 'read') = (read_at IS NOT NULL)",
            name="read_after_approval",
        ),
        CheckConstraint("read_at IS NULL OR read_at <= open_until", name="read_in_time"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    study_id: int = Field(foreign_key="study.id")
    pid: str = Field(max_length=12)
    ground: DisclosureGround = Field(sa_type=String(24))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    status: DisclosureStatus = Field(default=DisclosureStatus.requested, sa_type=String(16))
    requested_by: UUID = Field(foreign_key="account.id")
    decided_by: UUID | None = Field(default=None, foreign_key="account.id")
    decision_reason: str | None = Field(default=None, sa_column=Column(Text))
    open_until: datetime | None = None
    read_at: datetime | None = None
    version: int = 1
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class DisclosureCreate(Shape):
    participant: Pid
    ground: Annotated[DisclosureGround, Strict(False)]
    reason: LongReason


class DisclosureDecision(Shape):
    decision: Annotated[ApprovalDecision, Strict(False)]
    reason: Reason


class DisclosureRead(Answer):
    id: UUID
    study: str
    participant: PidShown
    ground: DisclosureGround
    reason: str
    status: DisclosureStatus
    requested_by: UUID
    decided_by: UUID | None
    decision_reason: str | None
    open_until: InstantShown | None
    read_at: InstantShown | None
    version: int
    created_at: InstantShown
    updated_at: InstantShown


class DisclosureList(Answer):
    items: list[DisclosureRead]
    next: str | None


class LabelRead(Answer):
    """All that the registry knows of a person's identity: the site, and the label there."""

    site: str
    site_local_id: str


class DisclosureFilter(Filter):
    study: Code | None = None
    status: DisclosureStatus | None = None
    limit: Limit = 50
    cursor: Cursor = None
