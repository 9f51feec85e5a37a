"""Scores against the baseline: of one participant, and of a study by visit. Worked out on reading."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row, select
from sqlmodel import Session

from app.access import Actor
from app.errors import Fault, Invalid
from app.models.base import fields_of, now, table_of
from app.models.outcome import Outcome, OutcomeScore
from app.models.outcome_summary import (
    DescriptiveStatistics,
    OutcomeSummary,
    OutcomeSummaryQuery,
    ResponseRead,
    VisitSummary,
)
from app.models.participant import Participant
from app.models.visit import Visit
from app.models.voided import counts
from app.protocol.definition import Protocol, Threshold, VisitKind
from app.protocol.derived import derived
from app.protocol.descriptive import describe, describe_change
from app.protocol.instruments import UnknownInstrument, instrument
from app.services.assessments.outcome_scores import shown_number
from app.services.assessments.outcomes import InstrumentUnknown
from app.services.codes_asked import require_defined, require_instrument
from app.services.participation.participants import Person, visible_person
from app.services.participation.screening_visits import counted
from app.services.studies import protocol_of

_OUTCOME, _SCORE, _VISIT, _PERSON = (table_of(model) for model in (Outcome, OutcomeScore, Visit, Participant))


class ScoreUnknown(Invalid):
    """The instrument has no such score."""


class Compared(NamedTuple):
    """A participant's value at one visit, with the baseline of the same score and what the protocol says of both."""

    visit_code: str
    value: float | None
    baseline: float | None
    threshold: Threshold | None


def response_of(
    session: Session, actor: Actor, symbols: str, wanted: str | None
) -> tuple[list[ResponseRead], str, str]:
    """Every score of a participant against its baseline, in the order of the visits' days; the pid and the protocol
    version. Raises NotFound, ValidationFailed."""
    person = visible_person(session, actor, symbols)
    require_instrument(wanted)
    rows = [row for row in _rows(session, person) if wanted in (None, row.instrument)]
    baselines = {
        (row.instrument, row.name): row.value
        for row in rows
        if row.counted and row.visit_code == baseline_of(person.protocol, row.instrument, row.name)
    }
    reads = [_response(row, person.protocol, baselines.get((row.instrument, row.name))) for row in rows]
    return reads, person.row.pid, person.protocol_version


def _response(row: Row[Any], protocol: Protocol, baseline: float | None) -> ResponseRead:
    rule = instrument(row.instrument, row.instrument_version).rule(row.name)
    response = derived(rule, threshold_of(protocol, row.instrument, row.name), baseline, row.value)
    return ResponseRead.of_row(
        fields_of(row),
        outcome=row.id,
        score=row.name,
        value=shown_number(row.value),
        baseline=shown_number(baseline),
        **response._replace(change=shown_number(response.change))._asdict(),
    )


def threshold_of(protocol: Protocol, code: str, score: str) -> Threshold | None:
    """What the protocol version says of a score."""
    return next((one for one in protocol.thresholds if (one.instrument, one.score) == (code, score)), None)


def baseline_of(protocol: Protocol, code: str, score: str) -> str | None:
    """The visit that a score is compared with: the threshold's, else the protocol's baseline visit."""
    threshold = threshold_of(protocol, code, score)
    if threshold and threshold.baseline:
        return threshold.baseline
    return next((visit.code for visit in protocol.visits if visit.kind is VisitKind.baseline), None)


def _rows(session: Session, person: Person) -> Sequence[Row[Any]]:
    """A participant's scores with their outcomes and visits, by the visits' days."""
    wanted: list[Any] = [_OUTCOME.c[name] for name in ("id", "instrument", "instrument_version")]
    wanted += [_VISIT.c.visit_code, _VISIT.c.occurrence, _SCORE.c.name, _SCORE.c.value]
    wanted.append(counted([person.protocol]).label("counted"))
    order = (_VISIT.c.occurred_on, _VISIT.c.visit_code, _VISIT.c.occurrence, _OUTCOME.c.instrument, _SCORE.c.name)
    theirs = (_OUTCOME.c.site_id == person.site_id) & (_OUTCOME.c.pid == person.row.pid) & counts(_OUTCOME)
    own = _SCORE.c.outcome_id.in_(select(_OUTCOME.c.id).where(theirs))  # or SQLite begins with everybody's scores
    return session.execute(_scores(*wanted).where(theirs, own).order_by(*order)).all()


def _scores(*wanted: Any) -> Any:
    same_visit = (_VISIT.c.site_id == _OUTCOME.c.site_id) & (_VISIT.c.id == _OUTCOME.c.visit_id)
    same_outcome = (_SCORE.c.site_id == _OUTCOME.c.site_id) & (_SCORE.c.outcome_id == _OUTCOME.c.id)
    return select(*wanted).join_from(_OUTCOME, _VISIT, same_visit).join(_SCORE, same_outcome).where(counts(_OUTCOME))


def summary(session: Session, actor: Actor, query: OutcomeSummaryQuery) -> OutcomeSummary:
    """A score of a study by visit, over those that are `counted`. Raises NotFound, InstrumentUnknown, ScoreUnknown,
    ValidationFailed."""
    sites = actor.sites_at(query.study, query.site)
    _require_score(query)
    require_defined(session, actor, query, "arm")
    people = _protocols(session, sites, query.arm)
    versions = {protocol.version: protocol for protocol in people.values()}
    conditions = (_OUTCOME.c.instrument == query.instrument, _SCORE.c.name == query.score, counted(versions.values()))
    scores = _scores(_OUTCOME.c.pid, _VISIT.c.visit_code, _SCORE.c.value).where(
        _OUTCOME.c.site_id.in_(sites), *conditions
    )
    values: dict[str, dict[str, float | None]] = defaultdict(dict)
    for pid, code, value in session.execute(scores.execution_options(yield_per=1000)):
        if pid in people:
            values[pid][code] = value
    return OutcomeSummary(
        as_of=now(),
        study=query.study,
        instrument=query.instrument,
        score=query.score,
        baseline=", ".join(sorted({_baseline(protocol, query) or "" for protocol in people.values()})),
        items=_by_visit([one for pid in values for one in _measured(values[pid], people[pid], query)], people),
    )


def _require_score(query: OutcomeSummaryQuery) -> None:
    try:
        names = {rule.name for rule in instrument(query.instrument).scores}
    except UnknownInstrument:
        raise InstrumentUnknown(Fault("/query/instrument", "unknown_instrument", "No such instrument")) from None
    if query.score not in names:
        raise ScoreUnknown(Fault("/query/score", "unknown_score", "The instrument has no such score"))


def _protocols(session: Session, sites: Sequence[int], arm: str | None) -> Mapping[str, Protocol]:
    """Of those who entered the study, by version, the newest last: a measurement that screened somebody out is no
    outcome (ICH E9, 5.2.1)."""
    wanted = select(_PERSON.c.pid, _PERSON.c.protocol_version_id).where(
        _PERSON.c.site_id.in_(sites), counts(_PERSON), _PERSON.c.enrolled_on.is_not(None)
    )
    if arm is not None:
        wanted = wanted.where(_PERSON.c.actual_arm == arm)
    rows = session.execute(wanted.order_by(_PERSON.c.protocol_version_id))
    return {row.pid: protocol_of(session, row.protocol_version_id) for row in rows}


def _baseline(protocol: Protocol, query: OutcomeSummaryQuery) -> str | None:
    return baseline_of(protocol, query.instrument, query.score)


def _measured(values: Mapping[str, float | None], protocol: Protocol, query: OutcomeSummaryQuery) -> list[Compared]:
    baseline = values.get(_baseline(protocol, query) or "")
    threshold = threshold_of(protocol, query.instrument, query.score)
    return [Compared(code, value, baseline, threshold) for code, value in values.items()]


def _by_visit(measured: Sequence[Compared], people: Mapping[str, Protocol]) -> list[VisitSummary]:
    """In the order of the newest protocol version's visits; others after them, by name."""
    grouped: dict[str, list[Compared]] = defaultdict(list)
    for one in measured:
        grouped[one.visit_code].append(one)
    planned = [visit.code for protocol in list(people.values())[-1:] for visit in protocol.visits]
    order = {code: place for place, code in enumerate(planned)}
    codes = sorted(grouped, key=lambda code: (order.get(code, len(order)), code))
    return [_visit_summary(code, grouped[code]) for code in codes]


def _visit_summary(code: str, measured: Sequence[Compared]) -> VisitSummary:
    judged = [
        (one.threshold.response(one.baseline, one.value), one.threshold.remission(one.value))
        for one in measured
        if one.threshold is not None
    ]
    responses = [response for response, _ in judged if response is not None]
    remissions = [remission for _, remission in judged if remission is not None]
    value = describe(one.value for one in measured)
    change = describe_change([(one.baseline, one.value) for one in measured])
    return VisitSummary(
        visit_code=code,
        administered=len(measured),
        value=DescriptiveStatistics(**value._asdict()),
        change=DescriptiveStatistics(**change._asdict()),
        responders=sum(responses) if responses else None,
        remitters=sum(remissions) if remissions else None,
    )
