"""Adverse events: table. Terms follow CDISC SDTM AE; seriousness is derived from the ICH E2A criteria."""

from datetime import date, datetime
from enum import StrEnum
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text, text
from sqlmodel import Field

from app.models.base import now, one_of
from app.models.voided import Voidable, voided_whole


class Severity(StrEnum):
    """CDISC codelist AESEV (C66769)."""

    mild = "mild"
    moderate = "moderate"
    severe = "severe"


class Relatedness(StrEnum):
    """Sponsor-defined in CDISC; this is the five-step scale."""

    not_related = "not_related"
    unlikely = "unlikely"
    possible = "possible"
    probable = "probable"
    definite = "definite"


SUSPECTED = frozenset({Relatedness.possible, Relatedness.probable, Relatedness.definite})
"""A causal relationship is at least a reasonable possibility (ICH E2A, section II.A.2)."""


class AeOutcome(StrEnum):
    """CDISC codelist OUT (C66768)."""

    fatal = "fatal"
    not_recovered = "not_recovered"
    recovered = "recovered"
    recovered_with_sequelae = "recovered_with_sequelae"
    recovering = "recovering"
    unknown = "unknown"


class ActionTaken(StrEnum):
    """CDISC codelist ACN (C66767)."""

    dose_not_changed = "dose_not_changed"
    dose_reduced = "dose_reduced"
    drug_interrupted = "drug_interrupted"
    drug_withdrawn = "drug_withdrawn"
    not_applicable = "not_applicable"
    unknown = "unknown"


class CodingLevel(StrEnum):
    """Levels of the MedDRA hierarchy, lowest first."""

    llt = "llt"
    pt = "pt"
    hlt = "hlt"
    hlgt = "hlgt"
    soc = "soc"


CRITERIA = (
    "death",
    "life_threatening",
    "hospitalisation",
    "disability",
    "congenital_anomaly",
    "medically_important",
)
"""The six seriousness criteria of ICH E2A, section II.B; any one makes an event serious."""

_ANY_CRITERION = " OR ".join(CRITERIA)


def _of_the_rare(column: str) -> Index:
    """An index of only the rows that have a value in a column that few events have."""
    return Index(f"ix_adverse_event_{column}", "site_id", column, "created_at", "id")


class AdverseEvent(Voidable, table=True):
    """An untoward medical occurrence in a participant (ICH E2A, II.A.1)."""

    __tablename__ = "adverse_event"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        one_of("severity", Severity),
        one_of("relatedness_drug", Relatedness, nullable=True),
        one_of("relatedness_therapy", Relatedness, nullable=True),
        one_of("action_taken", ActionTaken, nullable=True),
        one_of("outcome", AeOutcome, nullable=True),
        CheckConstraint(f"serious = ({_ANY_CRITERION})", name="serious_by_criteria"),
        CheckConstraint("outcome <> 'fatal' OR death", name="fatal_is_death"),
        voided_whole(),
        Index("ix_adverse_event_page", "site_id", "created_at", "id"),
        Index("ix_adverse_event_pid", "site_id", "pid"),
        Index("ix_adverse_event_due", "site_id", "due_at"),
        Index(
            "ix_adverse_event_serious",
            "site_id",
            "created_at",
            "id",
            postgresql_where=text("serious"),
            sqlite_where=text("serious = 1"),
        ),
        Index("ix_adverse_event_updated", "site_id", "updated_at", "id"),
        *(_of_the_rare(column) for column in ("severity", "soc", "special_interest")),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    term: str = Field(max_length=200)
    codings: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    pt: str | None = Field(default=None, max_length=200)
    soc: str | None = Field(default=None, max_length=200)
    onset: str | None = Field(default=None, max_length=10)
    onset_earliest: date | None = None
    onset_latest: date | None = None
    end: str | None = Field(default=None, max_length=10)
    severity: Severity = Field(sa_type=String(16))
    death: bool
    life_threatening: bool
    hospitalisation: bool
    disability: bool
    congenital_anomaly: bool
    medically_important: bool
    serious: bool
    serious_as_reported: bool | None = None
    """The seriousness that the source form stated; stored beside the derived flag and never used for it."""

    relatedness_drug: Relatedness | None = Field(default=None, sa_type=String(16))
    relatedness_therapy: Relatedness | None = Field(default=None, sa_type=String(16))
    action_taken: ActionTaken | None = Field(default=None, sa_type=String(20))
    outcome: AeOutcome | None = Field(default=None, sa_type=String(24))
    expected: bool | None = None
    special_interest: str | None = Field(default=None, max_length=64)
    aware_at: datetime | None = None
    due_at: datetime | None = None
    """When the site's first report of a serious event is due, by the protocol's clock; None while it is not serious."""

    downgraded_at: datetime | None = None
    """When a correction last made it not serious, or neither fatal nor life-threatening; None if that never happened,
    or if it has its gravest state again."""

    findings: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    version: int = 1
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)
