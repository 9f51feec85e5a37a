"""Extracts: data of a study for one recipient, requested by an analyst and approved by a custodian."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import Strict, model_validator
from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, String, Text
from sqlmodel import Field, SQLModel

from app.models.base import (
    Answer,
    Code,
    Cursor,
    Filter,
    InstantShown,
    Limit,
    LongReason,
    QueryBool,
    Reason,
    Shape,
    now,
    one_of,
)
from app.models.contradiction import contradiction


class ExtractProfile(StrEnum):
    aggregate = "aggregate"
    """Declared tables of rounded counts and means; no row of anybody."""

    deidentified = "deidentified"
    pseudonymised = "pseudonymised"
    """For a named project under an agreement: study days and exact ages."""


class ExtractStatus(StrEnum):
    requested = "requested"
    refused = "refused"
    building = "building"
    """Approved; who is in it is fixed, and a worker writes the files."""

    failed = "failed"
    """The files could not be written. Those of an earlier build may have gone out."""

    ready = "ready"
    expired = "expired"
    revoked = "revoked"
    """Of these two the files are deleted; who was in the extract stays in the ledger."""


OPEN = frozenset({ExtractStatus.building, ExtractStatus.failed, ExtractStatus.ready})
"""Statuses in which files can be downloaded, now or once they are built; a custodian can revoke such an extract."""

RELEASED = frozenset(ExtractStatus) - {ExtractStatus.requested, ExtractStatus.refused}
"""Statuses in which files may have been downloaded, or may be yet."""


class ExtractFormat(StrEnum):
    """In which forms each table is in the bundle."""

    csv = "csv"
    ndjson = "ndjson"
    """CDISC Dataset-JSON 1.1."""

    parquet = "parquet"


class Extract(SQLModel, table=True):
    """One request for data and what became of it."""

    __table_args__ = (
        one_of("profile", ExtractProfile),
        one_of("status", ExtractStatus),
        CheckConstraint("decided_by IS NULL OR decided_by <> requested_by", name="second_person"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    study_id: int = Field(foreign_key="study.id")
    profile: ExtractProfile = Field(sa_type=String(16))
    purpose: str = Field(sa_column=Column(Text, nullable=False))
    agreement: str | None = Field(default=None, sa_column=Column(Text))
    """Reference of the agreement under which pseudonymised data go out."""

    status: ExtractStatus = Field(default=ExtractStatus.requested, sa_type=String(16))
    formats: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON list of ExtractFormat; csv is always among them."""

    organisation: str = Field(max_length=200)
    """The requester's organisation under its name at that time, by which the ledger compares extracts."""

    cut: str | None = Field(default=None, max_length=64)
    """The named data cut that was asked for; else the extract is of the moment of its approval."""

    heads: str | None = Field(default=None, sa_column=Column(Text))
    """The moment that it shows, in the form of DataCut; None until it is approved or if it never was."""

    requested_by: UUID = Field(foreign_key="account.id")
    decided_by: UUID | None = Field(default=None, foreign_key="account.id")
    decision_reason: str | None = Field(default=None, sa_column=Column(Text))
    manifest: str | None = Field(default=None, sa_column=Column(Text))
    expires_at: datetime | None = None
    """From then on the files cannot be downloaded."""

    version: int = 1
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class ExtractSubject(SQLModel, table=True):
    """A person in an extract, with the subject id and the traits that it shows. Stored before the files are built, so
    that SQL can join on it."""

    __tablename__ = "extract_subject"
    __table_args__ = (Index("ix_extract_subject_order", "extract_id", "subject", unique=True),)

    extract_id: UUID = Field(primary_key=True, foreign_key="extract.id")
    site_id: int = Field(primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    subject: str = Field(max_length=16)
    anchor_on: date | None = None
    """Study day 1 of this participant."""

    collection_ended_on: date | None = None
    """The extract has no record of this participant that is dated on this day or later."""

    site_group: str | None = Field(default=None, max_length=16)
    age_group: str | None = Field(default=None, max_length=16)
    sex: str | None = Field(default=None, max_length=64)
    race: str | None = Field(default=None, max_length=64)
    country: str | None = Field(default=None, max_length=16)
    status: str | None = Field(default=None, max_length=32)
    """This and the five columns before it are as the profile shows them."""

    serious_shown: bool = True
    """False if all people of the extract had a serious event, or none."""


class ExtractBuild(SQLModel, table=True):
    """The work that an approved extract waits for. The worker that has the lease writes the files; those of a build
    that lost it are never listed."""

    __tablename__ = "extract_build"

    extract_id: UUID = Field(primary_key=True, foreign_key="extract.id")
    build: UUID | None = None
    leased_until: datetime | None = None
    attempts: int = 0
    rows: int = Field(default=0, sa_type=BigInteger)
    """Rows written so far."""


class ExtractChunk(SQLModel, table=True):
    """A part of a file, deflated and encrypted. It is in the database, so that any worker can serve it."""

    __tablename__ = "extract_chunk"

    extract_id: UUID = Field(primary_key=True, foreign_key="extract.id")
    build: UUID = Field(primary_key=True)
    name: str = Field(primary_key=True, max_length=64)
    start: int = Field(primary_key=True, sa_type=BigInteger)
    """The position of its first byte in the file."""

    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class ExtractFile(SQLModel, table=True):
    """One finished file, whose content is in the chunks of its build."""

    __tablename__ = "extract_file"

    extract_id: UUID = Field(primary_key=True, foreign_key="extract.id")
    name: str = Field(primary_key=True, max_length=64)
    media_type: str = Field(max_length=64)
    rows: int | None = None
    sha256: str = Field(max_length=64)
    bytes: int = Field(sa_type=BigInteger)
    build: UUID
    sealed_key: str = Field(sa_column=Column(Text, nullable=False))
    """The key of its chunks, encrypted by the key file: once this row is deleted, nobody can read the file."""


class ExtractCreate(Shape):
    study: Code
    profile: Annotated[ExtractProfile, Strict(False)] = ExtractProfile.deidentified
    purpose: LongReason
    agreement: Reason | None = None
    """Of pseudonymised extracts: the reference of the agreement with the recipient."""

    formats: Annotated[list[Annotated[ExtractFormat, Strict(False)]], Bounded(max_length=3)] = [
        ExtractFormat.csv,
        ExtractFormat.ndjson,
    ]
    """CSV is always made, and is what a citation refers to. Parquet only where the server can write it."""

    cut: Code | None = None
    """The name of a data cut; absent: the extract is of the moment of its approval."""

    @model_validator(mode="after")
    def _agreement_by_profile(self) -> "ExtractCreate":
        if (self.agreement is None) == (self.profile is ExtractProfile.pseudonymised):
            raise contradiction(
                "agreement_by_profile", "pseudonymised needs agreement, the others have none", "agreement"
            )
        return self


class ApprovalDecision(StrEnum):
    approve = "approve"
    refuse = "refuse"


class ApprovalCreate(Shape):
    decision: Annotated[ApprovalDecision, Strict(False)]
    reason: Reason
    accept_difference: bool = False
    """Release it although comparing it with an earlier extract could reveal a few people (`differencing_risk`). The
    reason has to say why. The manifest, and the risk report where there is one, say that it was accepted."""


class RevocationCreate(Shape):
    reason: Reason


class ExtractFileRead(Answer):
    name: str
    media_type: str
    rows: int | None
    bytes: int
    sha256: str


class WithdrawnSince(Answer):
    """How many people of an extract have withdrawn consent since it was approved, by scope."""

    sharing: int = 0
    """They do not share data any more: by a withdrawal, or by a newer, corrected or voided consent."""

    collection: int = 0
    """The collection of their data ended, and the extract may have records of that day or later."""

    identity: int = 0
    """Their label at the site was erased after the extract was asked for."""


class ExtractRead(Answer):
    id: UUID
    study: str
    profile: ExtractProfile
    purpose: str
    organisation: str
    """The organisation that receives it: the requester's, under its name at the time of the request."""

    requested_by: UUID
    requested_by_name: str | None
    agreement: str | None
    status: ExtractStatus
    formats: list[ExtractFormat]
    cut: str | None
    decided_by: UUID | None
    decided_by_name: str | None
    decision_reason: str | None
    expires_at: InstantShown | None
    downloaded_at: InstantShown | None
    """When one of its files was first downloaded; null: none was. It stays when the files are gone."""

    built_rows: int | None
    """Rows written so far, while the files are being built."""

    subjects: int | None
    """How many people are in it, from its approval on, as the manifest has it; a dry run of the approval shows it."""

    withdrawn_since: WithdrawnSince | None
    """How many of them have withdrawn consent since. Shown to custodians who did not ask for the extract themselves;
    null for everybody else, and before an approval."""

    risk: dict[str, Any] | None
    """The risk report of a deidentified extract, from its approval on; a dry run of the approval shows it before."""

    manifest: dict[str, Any] | None
    files: list[ExtractFileRead]
    version: int
    created_at: InstantShown
    updated_at: InstantShown


class ExtractList(Answer):
    items: list[ExtractRead]
    next: str | None


class ExtractFilter(Filter):
    study: Code | None = None
    status: ExtractStatus | None = None
    withdrawn_since: QueryBool | None = None
    """Only approved extracts with people who have withdrawn consent since (`true`), or with none (`false`); only
    extracts whose `withdrawn_since` is shown to you."""

    limit: Limit = 50
    cursor: Cursor = None


class CodebookFormat(StrEnum):
    json = "json"
    csv = "csv"


class CodebookQuery(Filter):
    profile: ExtractProfile = ExtractProfile.deidentified
    format: CodebookFormat = CodebookFormat.json


class CodebookColumn(Answer):
    file: str
    name: str
    label: str
    type: str
    unit: str | None
    codes: list[str]
    source: str
    treatment: str
    null_means: str


class CodebookRead(Answer):
    profile: ExtractProfile
    profile_version: str
    columns: list[CodebookColumn]
