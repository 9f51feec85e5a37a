"""The findings on an adverse event, by what it says itself and by the participant's course."""

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
    """What is unlikely or incomplete, but kept as the source said it. A death is told twice, as an event and as the
    participant's status, and the two are held against each other. Events are collected once there is consent (doi
    10.3389/fpsyt.2022.954388, table 2: from V0 on); what began before belongs to the medical history."""
    serious, died = is_serious(event.criteria), course.died
    doubts = [
        (
            event.serious_as_reported is not None and event.serious_as_reported != serious,
            Finding(
                code="seriousness_contradicts_criteria",
                field="/serious_as_reported",
                message="The source's flag and the seriousness criteria differ; the criteria decide",
            ),
        ),
        (
            event.end is not None and event.outcome in {AeOutcome.not_recovered, AeOutcome.recovering},
            Finding(code="end_contradicts_outcome", field="/end", message="An end date, yet not recovered"),
        ),
        (
            event.criteria.death and event.outcome != AeOutcome.fatal,
            Finding(code="death_contradicts_outcome", field="/outcome", message="Criterion death, yet not fatal"),
        ),
        (
            event.criteria.death and died is None,
            Finding(
                code="death_contradicts_status",
                field="/criteria/death",
                message="Led to death, yet the participant's status is not died",
            ),
        ),
        (
            died is not None and not _may_have_ended_in_death(event, died),
            Finding(
                code="death_day_contradicts_status",
                field="/end",
                message="Fatal, yet it ended on another day than that of the death",
            ),
        ),
        (
            event.onset is not None and died is not None and span(event.onset).earliest > died,
            Finding(code="onset_after_death", field="/onset", message="The onset lies after the day of the death"),
        ),
        (
            event.onset is not None and course.consented is not None and span(event.onset).latest < course.consented,
            Finding(code="onset_before_consent", field="/onset", message="Began before the day of the first consent"),
        ),
        (event.onset is None, Finding(code="onset_missing", field="/onset", message="The onset is unknown")),
        (
            serious and event.aware_at is None,
            Finding(
                code="awareness_missing",
                field="/aware_at",
                message="Unknown when the site became aware; the clock runs from when it was called serious",
            ),
        ),
        (
            event.onset is not None
            and event.aware_at is not None
            and latest_day(event.aware_at) < span(event.onset).earliest,
            Finding(
                code="awareness_before_onset",
                field="/aware_at",
                message="Aware before the onset; one of the two is wrong",
            ),
        ),
    ]
    return [finding for applies, finding in doubts if applies]


def _may_have_ended_in_death(event: AdverseEventFields, died: date) -> bool:
    """A fatal event ends on the day of the death (CDISC SDTM: AEENDTC where AEOUT is FATAL, and the one DTHDTC of DM).
    Several may be fatal: each event has an outcome of its own (ICH E2B(R3), E.i.7)."""
    if event.outcome != AeOutcome.fatal or event.end is None:
        return True
    ended = span(event.end)
    return ended.earliest <= died <= ended.latest
