"""Adverse events in requests and answers, with the contradictions that are refused."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field as Bounded
from pydantic import Strict, model_validator

from app.models.adverse_event import ActionTaken, AeOutcome, CodingLevel, Relatedness, Severity
from app.models.base import (
    Answer,
    Code,
    Cursor,
    Filter,
    Instant,
    InstantShown,
    IsoDate,
    Limit,
    OfPages,
    PartialDate,
    PastInstant,
    QueryBool,
    Reason,
    Shape,
    ShortText,
)
from app.models.contradiction import contradiction
from app.models.finding import Finding
from app.models.identifiers import Pid, PidShown
from app.models.partial_date import span

ENDED = frozenset({AeOutcome.fatal, AeOutcome.recovered, AeOutcome.recovered_with_sequelae})
"""Outcomes of an event that is over and so has an end date (CDISC SDTM AE, AEENDTC)."""


class Coding(Shape):
    """A dictionary term as the site gives it; no dictionary is shipped (MedDRA is licensed)."""

    system: ShortText
    version: Code | None = None
    code: Code | None = None
    term: ShortText
    level: Annotated[CodingLevel, Strict(False)]


class SeriousnessCriteria(Shape):
    """The seriousness criteria of ICH E2A, section II.B."""

    death: bool = False
    life_threatening: bool = False
    hospitalisation: bool = False
    disability: bool = False
    congenital_anomaly: bool = False
    medically_important: bool = False


class AdverseEventFields(Shape):
    """A whole event; the same rules apply to reports and corrections."""

    term: ShortText
    codings: Annotated[list[Coding], Bounded(max_length=10)] = []
    onset: PartialDate | None
    end: PartialDate | None = None
    severity: Annotated[Severity, Strict(False)]
    criteria: SeriousnessCriteria = SeriousnessCriteria()
    serious_as_reported: bool | None = None
    relatedness_drug: Annotated[Relatedness, Strict(False)] | None = None
    relatedness_therapy: Annotated[Relatedness, Strict(False)] | None = None
    action_taken: Annotated[ActionTaken, Strict(False)] | None = None
    outcome: Annotated[AeOutcome, Strict(False)] | None = None
    expected: bool | None = None
    special_interest: Code | None = None
    aware_at: PastInstant | None = None

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> "AdverseEventFields":
        if self.outcome is AeOutcome.fatal and not self.criteria.death:
            raise contradiction("fatal_without_death", "A fatal event meets the criterion death", "criteria", "death")
        if self.outcome in ENDED and self.end is None:
            raise contradiction("end_missing", "An event with this outcome is over and needs end", "end")
        if self.onset and self.end and span(self.end).latest < span(self.onset).earliest:
            raise contradiction("end_before_onset", "end cannot lie before onset", "end")
        if len({coding.level for coding in self.codings}) < len(self.codings):
            raise contradiction("coding_level_twice", "Give each coding level once", "codings")
        return self


class AdverseEventCreate(AdverseEventFields):
    participant: Pid


class AdverseEventAmend(Shape):
    """A correction: only the fields sent change, and of the criteria those sent; null clears."""

    reason: Reason
    term: ShortText | None = None
    codings: Annotated[list[Coding], Bounded(max_length=10)] | None = None
    onset: PartialDate | None = None
    end: PartialDate | None = None
    severity: Annotated[Severity, Strict(False)] | None = None
    criteria: SeriousnessCriteria | None = None
    serious_as_reported: bool | None = None
    relatedness_drug: Annotated[Relatedness, Strict(False)] | None = None
    relatedness_therapy: Annotated[Relatedness, Strict(False)] | None = None
    action_taken: Annotated[ActionTaken, Strict(False)] | None = None
    outcome: Annotated[AeOutcome, Strict(False)] | None = None
    expected: bool | None = None
    special_interest: Code | None = None
    aware_at: PastInstant | None = None


class CodingRead(Answer):
    """A dictionary term as it was accepted."""

    system: str
    version: str | None = None
    code: str | None = None
    term: str
    level: CodingLevel


class AdverseEventRead(Answer):
    id: UUID
    participant: PidShown
    study: str
    site: str
    term: str
    codings: list[CodingRead]
    pt: str | None
    soc: str | None
    onset: str | None
    end: str | None
    severity: Severity
    criteria: SeriousnessCriteria
    serious: bool
    serious_as_reported: bool | None
    relatedness_drug: Relatedness | None
    relatedness_therapy: Relatedness | None
    action_taken: ActionTaken | None
    outcome: AeOutcome | None
    expected: bool | None
    special_interest: str | None
    aware_at: InstantShown | None
    due_at: InstantShown | None
    reported_at: InstantShown | None
    """When the first report to the sponsor was sent."""

    downgraded_at: InstantShown | None
    """When it last ceased to be serious, or to be fatal or life-threatening, by a correction."""

    findings: list[Finding]
    version: int
    created_at: InstantShown
    updated_at: InstantShown
    """When it was stored, last corrected or last reported on."""

    voided_at: InstantShown | None
    """When it was voided as entered in error; since then it counts as never recorded."""

    voiding_reason: str | None


class AdverseEventDetail(AdverseEventRead):
    """A single event also has its timing relative to the doses."""

    treatment_emergent: bool | None
    """Whether it can have begun on or after the day of the first dose; null without a dose."""

    days_since_last_dose: int | None
    """Days from the last dose before the onset to the onset; null if one of them is missing or the onset is partial."""


class AdverseEventList(Answer):
    items: list[AdverseEventDetail | AdverseEventRead]
    """With `include=exposure` as single events are shown."""

    next: str | None


class AdverseEventSort(StrEnum):
    """`due`: those whose report is due soonest first, then those whose first report was sent; events without a due time
    are left out, unless `overdue` asks for them. The others: newest first."""

    due = "due"
    onset = "onset"
    reported = "reported"
    updated = "updated"


class AdverseEventInclude(StrEnum):
    exposure = "exposure"


class AdverseEventFormat(StrEnum):
    csv = "csv"
    json = "json"


class AdverseEventFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    serious: QueryBool | None = None
    severity: Severity | None = None
    relatedness: Relatedness | None = None
    """Relatedness to the drug or to the therapy."""

    outcome: AeOutcome | None = None
    aesi: Code | None = None
    term: ShortText | None = None
    """The verbatim or the preferred term in full; upper and lower case are the same."""

    soc: ShortText | None = None
    onset_from: IsoDate | None = None
    onset_to: IsoDate | None = None
    """Bounds on the onset, both included; an event with a partial onset is found if the onset can lie inside."""

    updated_since: Instant | None = None
    """Stored, corrected or reported on at this moment or after it."""

    overdue: QueryBool | None = None
    """True: a report, an answer or a notice to an authority that the event requires is overdue."""

    unreviewed: QueryBool | None = None
    """True: events that you have not reviewed at their present version, or that were reported on since."""

    possible_duplicate: QueryBool | None = None
    """True: another event of the participant has the same term and the same onset."""

    voided: QueryBool = False
    """True: only what was voided."""

    include: AdverseEventInclude | None = None
    """`exposure`: also the timing relative to the doses, which a single event and the CSV always have."""

    sort: AdverseEventSort = AdverseEventSort.reported
    format: AdverseEventFormat = AdverseEventFormat.json
    limit: Annotated[Limit, OfPages] = 50
    cursor: Annotated[Cursor, OfPages] = None
