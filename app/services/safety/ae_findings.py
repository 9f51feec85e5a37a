"""The findings on an adverse event, by what it says itself and by the participant's course."""

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from app.models.adverse_event import CRITERIA, AeOutcome
from app.models.adverse_event_shapes import AdverseEventFields, SeriousnessCriteria
from app.models.base import latest_day
from app.models.finding import Finding
from app.models.partial_date import span


class Course(NamedTuple):
    """The parts of a participant's course that an event is compared with."""

    consented: date | None
    """The day of the first consent; None: unknown."""

    died: date | None


def is_serious(criteria: SeriousnessCriteria) -> bool:
    """Any criterion makes an event serious (ICH E2A, section II.B). Seriousness is never typed."""
    return any(getattr(criteria, name) for name in CRITERIA)


def findings(event: AdverseEventFields, course: Course) -> list[Finding]:
    """What is unlikely or incomplete, but kept as the source said it."""
    return [Finding(code=code, field=field, message=message) for code, field, message in _doubts(event, course)]


def _doubts(event: AdverseEventFields, course: Course) -> Iterator[tuple[str, str, str]]:
    """Code, field and message. A death is told twice, as an event and as the participant's status, and the two are
    held against each other. Events are collected once there is consent (doi 10.3389/fpsyt.2022.954388, table 2: from
    V0 on); what began before belongs to the medical history."""
    serious, died, aware_at = is_serious(event.criteria), course.died, event.aware_at
    onset = span(event.onset) if event.onset is not None else None
    if event.serious_as_reported not in (None, serious):
        message = "The source's flag and the seriousness criteria differ; the criteria decide"
        yield "seriousness_contradicts_criteria", "/serious_as_reported", message
    if event.end is not None and event.outcome in {AeOutcome.not_recovered, AeOutcome.recovering}:
        yield "end_contradicts_outcome", "/end", "An end date, yet not recovered"
    if event.criteria.death and event.outcome != AeOutcome.fatal:
        yield "death_contradicts_outcome", "/outcome", "Criterion death, yet not fatal"
    if event.criteria.death and died is None:
        yield "death_contradicts_status", "/criteria/death", "Led to death, yet the participant's status is not died"
    if died is not None and not _may_have_ended_in_death(event, died):
        yield "death_day_contradicts_status", "/end", "Fatal, yet it ended on another day than that of the death"
    if onset and died is not None and onset.earliest > died:
        yield "onset_after_death", "/onset", "The onset lies after the day of the death"
    if onset and course.consented is not None and onset.latest < course.consented:
        yield "onset_before_consent", "/onset", "Began before the day of the first consent"
    if onset is None:
        yield "onset_missing", "/onset", "The onset is unknown"
    if serious and aware_at is None:
        message = "Unknown when the site became aware; the clock runs from when it was called serious"
        yield "awareness_missing", "/aware_at", message
    if onset and aware_at is not None and latest_day(aware_at) < onset.earliest:
        yield "awareness_before_onset", "/aware_at", "Aware before the onset; one of the two is wrong"


def _may_have_ended_in_death(event: AdverseEventFields, died: date) -> bool:
    """A fatal event ends on the day of the death (CDISC SDTM: AEENDTC where AEOUT is FATAL, and the one DTHDTC of DM).
    Several may be fatal: each event has an outcome of its own (ICH E2B(R3), E.i.7)."""
    if event.outcome != AeOutcome.fatal or event.end is None:
        return True
    ended = span(event.end)
    return ended.earliest <= died <= ended.latest
