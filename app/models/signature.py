"""Electronic signatures of investigators (21 CFR part 11): who signed what content, when, and what it meant."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import Strict, StringConstraints
from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, String
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, Shape, now, one_of
from app.models.identifiers import Pid, PidShown
from app.models.sign_in import TotpCode, Typed


class SignatureMeaning(StrEnum):
    """What a signature says (21 CFR 11.50(a)(3))."""

    approval = "approval"
    authorship = "authorship"
    responsibility = "responsibility"
    review = "review"


class SignatureState(StrEnum):
    """`broken`: the signed content has changed since. Derived on reading, never stored."""

    broken = "broken"
    valid = "valid"


class Signature(SQLModel, table=True):
    """One signature of a visit, or of a participant's whole record. The database refuses changes and deletion."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        ForeignKeyConstraint(["site_id", "visit_id"], ["visit.site_id", "visit.id"]),
        one_of("meaning", SignatureMeaning),
        CheckConstraint("length(content_sha256) = 64", name="content_hashed"),
        Index("ix_signature_page", "site_id", "signed_at", "id"),
        Index("ix_signature_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    visit_id: UUID | None = None
    """None: the participant's whole record."""

    meaning: SignatureMeaning = Field(sa_type=String(16))
    content_form: int
    """The version of the canonical form that was hashed: docs/signatures.md."""

    content_sha256: str = Field(max_length=64)
    signer: UUID = Field(foreign_key="account.id")
    signer_name: str = Field(max_length=200)
    """The printed name, as it was on signing (21 CFR 11.50(a)(1))."""

    second_factor: bool
    """Whether a code was given beside the password."""

    signed_at: datetime = Field(default_factory=now)


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SignatureCreate(Shape):
    participant: Pid
    visit: UUID | None = Bounded(default=None, strict=False)
    """Absent: the participant's whole record."""

    meaning: Annotated[SignatureMeaning, Strict(False)]
    content_sha256: Sha256
    """Of the content as the signer saw it."""

    password: Typed
    totp: TotpCode | None = None
    """The six digits of the second factor, from people who have one."""


class ContentQuery(Filter):
    participant: Pid
    visit: UUID | None = None


class ContentRead(Answer):
    """The text that a signature would cover. `content_sha256` is the SHA-256 of its UTF-8 bytes."""

    participant: PidShown
    visit: UUID | None
    content_form: int
    content_sha256: str
    content: str


class SignatureRead(Answer):
    id: UUID
    participant: PidShown
    study: str
    site: str
    visit: UUID | None
    meaning: SignatureMeaning
    signer: UUID
    signer_name: str
    signed_at: InstantShown
    second_factor: bool
    content_form: int
    content_sha256: str
    state: SignatureState


class SignatureList(Answer):
    items: list[SignatureRead]
    next: str | None


class SignatureFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    visit: UUID | None = None
    state: SignatureState | None = None
    """A page is of `limit` signatures and has those in this state: it may be short, or empty, with a `next`."""

    limit: Limit = 50
    cursor: Cursor = None
