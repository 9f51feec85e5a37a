"""Safety signals: raised in the transaction of the record that made their rule true, updated by corrections, reviewed
once.

A transaction that raises one has locked the participant (`Hold`), so the start of a dosing session waits for the
signal, or the signal for the start. The locks of foreign keys would not do: they do not exclude a lock for a change of
the row.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import date, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from app import audit
from app.access import Actor, Place, Rows, visible_row
from app.errors import Conflict
from app.models.base import canonical_json, columns, fields_of, from_json, new_row, now, values
from app.models.dosing_session import DosingSession, SessionState, VitalReading
from app.models.notification import EventType, SubjectType
from app.models.outcome import Outcome
from app.models.participant import IN_STUDY, Participant
from app.models.safety_signal import (
    SafetySignal,
    SafetySignalRead,
    SignalReview,
    SignalSeverity,
    SignalSource,
    SignalState,
)
from app.models.study import ProtocolVersion
from app.models.visit import Visit
from app.models.voided import counts
from app.protocol.instruments import instrument
from app.protocol.safety import OutcomeSeen, SafetyRule, Signal, VitalsSeen, evaluate
from app.protocol.scoring import as_asked, whole
from app.services.assessments.outcome_scores import scores_of
from app.services.notifications.outbox import add_notifications
from app.services.studies import protocol_of, zone_of
from app.writing import Writes, store


class SignalAlreadyReviewed(Conflict):
    """This safety signal was reviewed already."""


class Source(NamedTuple):
    """The source of a signal: a version of an outcome or of a reading of vital signs."""

    kind: Literal["outcome_id", "reading_id"]
    id: UUID
    version: int
    site_id: int
    pid: str
    protocol_version_id: int


def raise_in_new(session: Session, writes: Writes, source: Source, seen: OutcomeSeen | VitalsSeen) -> list[audit.Event]:
    """Add the signals of a new source to the rows stored with it; gives their audit events."""
    rules = protocol_of(session, source.protocol_version_id).safety_rules
    return _raised(session, writes, source, rules, evaluate(rules, seen))


def seen_in_outcome(
    session: Session, row: Outcome, scores: Sequence[Mapping[str, Any]], event: audit.Event
) -> list[audit.Event]:
    """The audit event of a corrected outcome, and those of the signals that the correction raises or changes."""
    return [event, *_follow(session, row, _seen(row, scores), event)]


def seen_in_reading(session: Session, row: VitalReading, event: audit.Event) -> list[audit.Event]:
    """The same for a reading of vital signs, new or corrected."""
    return [event, *_follow(session, row, VitalsSeen(json.loads(row.measured)), event)]


def source_voided(session: Session, row: Outcome | VitalReading) -> list[audit.Event]:
    """The audit events of the open signals of a voided outcome or reading, or of a reading of a voided session. They
    stay open for the clinician, as after a correction (`_changed`): what was answered or measured may be another
    participant's, which has to be clarified before anybody is dosed."""
    events = []
    for known in _known(session, row):
        if known.state == SignalState.open and known.trigger_corrected_at is None:
            before, known.trigger_corrected_at = audit.snapshot(known), now()
            events.append(_next_version(session, known, before, "safety-signal:source-voided"))
    return events


def judged_again(session: Session, person: Participant) -> list[audit.Event]:
    """The audit events of the signals raised when a participant is moved to a protocol version with other safety rules:
    the next dose may come before the next answer. How far back to look is the registry's own choice; no guideline says
    it. A review counts for the version of the source from which the signal was raised."""
    if person.status not in IN_STUDY:
        return []
    events: list[audit.Event] = []
    for row, seen, later in _current(session, person):
        known = _known(session, row)
        counting = [one for one in known if one.state == SignalState.open or one.source_version == row.version]
        events += _raised_or_changed(session, row, seen, counting, frozenset(), later)
    return events


def _current(
    session: Session, person: Participant
) -> Iterator[tuple[Outcome, OutcomeSeen, Set[str]] | tuple[VitalReading, VitalsSeen, Set[str]]]:
    """The outcomes with the last answer to each question and the last value of each score, and the vital signs of an
    open session; each with the codes that later records have replaced. A complete form replaces all earlier ones."""
    on = sa.func.coalesce(col(Outcome.collected_on), col(Visit.occurred_on))
    measured = select(Outcome).join(Visit, _same(Outcome.site_id, Outcome.visit_id, Visit))
    measured = measured.where(Outcome.site_id == person.site_id, Outcome.pid == person.pid, counts(Outcome))
    outcomes = session.exec(measured.order_by(on, col(Outcome.created_at))).all()
    scores, taken, over = scores_of(session, outcomes), defaultdict[str, set[str]](set), set[str]()
    for row in reversed(outcomes):
        if row.instrument in over:
            continue
        seen, form = _seen(row, scores[row.id]), instrument(row.instrument, row.instrument_version)
        answers = {**as_asked(form, seen.items), **seen.scores}
        given = {code for code, value in answers.items() if value is not None}
        if not given <= taken[row.instrument]:
            yield row, seen, frozenset(taken[row.instrument])
        taken[row.instrument] |= given
        if whole(form, seen.items):
            over.add(row.instrument)
    open_one = sa.and_(
        _same(VitalReading.site_id, VitalReading.session_id, DosingSession),
        col(DosingSession.state) == SessionState.open,
        counts(DosingSession),
    )
    signs = select(VitalReading).join(DosingSession, open_one)
    signs = signs.where(VitalReading.site_id == person.site_id, VitalReading.pid == person.pid, counts(VitalReading))
    for reading in session.exec(signs).all():
        yield reading, VitalsSeen(json.loads(reading.measured)), frozenset()


def _seen(row: Outcome, scores: Sequence[Mapping[str, Any]]) -> OutcomeSeen:
    return OutcomeSeen(row.instrument, json.loads(row.items), {score["name"]: score["value"] for score in scores})


def _follow(
    session: Session, row: Outcome | VitalReading, seen: OutcomeSeen | VitalsSeen, event: audit.Event
) -> list[audit.Event]:
    corrected = {str(change["field"]).partition(".")[2] for change in event.changes}
    return _raised_or_changed(session, row, seen, _known(session, row) if row.version > 1 else (), corrected)


def _raised_or_changed(
    session: Session,
    row: Outcome | VitalReading,
    seen: OutcomeSeen | VitalsSeen,
    earlier: Iterable[SafetySignal],
    corrected: Set[str],
    later: Set[str] = frozenset(),
) -> list[audit.Event]:
    """The audit events of a source's signals, given those that it raised before, what was corrected in it, and the
    codes that `later` records have replaced."""
    person = session.get_one(Participant, (row.site_id, row.pid))
    rules = protocol_of(session, person.protocol_version_id).safety_rules
    true = {signal.rule: signal for signal in evaluate(rules, seen) if not later >= set(signal.because)}
    source = Source(_kind(row), row.id, row.version, row.site_id, row.pid, person.protocol_version_id)
    writes, events = Writes(), []
    for known in earlier:
        by_rule = true.get(known.rule)
        if known.state == SignalState.reviewed:
            if by_rule and corrected.isdisjoint(by_rule.because):
                del true[known.rule]  # the values behind it were not corrected
            continue
        true.pop(known.rule, None)
        if by_rule and by_rule.holds_dosing and not known.holds_dosing:
            events += _raised_anew(session, writes, known, source, rules, by_rule)
        else:
            action = "source-corrected" if corrected else "judged-again"
            events += _changed(session, known, seen, by_rule, f"safety-signal:{action}")
    events += _raised(session, writes, source, rules, true.values())
    store(session, writes)
    return events


def _known(session: Session, source: Outcome | VitalReading) -> list[SafetySignal]:
    """The newest signal of each rule that this source raised before."""
    statement = select(SafetySignal).where(
        SafetySignal.site_id == source.site_id, getattr(SafetySignal, _kind(source)) == source.id
    )
    rows = session.exec(statement.order_by(col(SafetySignal.source_version)).with_for_update()).all()
    return list({row.rule: row for row in rows}.values())


def _kind(source: Outcome | VitalReading) -> Literal["outcome_id", "reading_id"]:
    return "outcome_id" if isinstance(source, Outcome) else "reading_id"


def _changed(
    session: Session, row: SafetySignal, seen: OutcomeSeen | VitalsSeen, signal: Signal | None, action: str
) -> list[audit.Event]:
    """Update an open signal after a correction of its source. It stays open in any case, and shows the clinician
    whether its rule is still true: by the rule in force, or else by the protocol version whose rule it was."""
    before = audit.snapshot(row)
    own = protocol_of(session, row.protocol_version_id).safety_rules
    signal = signal or next((one for one in evaluate(own, seen) if one.rule == row.rule), None)
    if signal is None:
        row.trigger_corrected_at = row.trigger_corrected_at or now()
    else:
        row.trigger_corrected_at = None
        row.because = canonical_json(sorted(signal.because))
    if audit.snapshot(row) == before:
        return []
    return [_next_version(session, row, before, action)]


def _raised_anew(
    session: Session, writes: Writes, row: SafetySignal, source: Source, rules: Sequence[SafetyRule], signal: Signal
) -> list[audit.Event]:
    """Update an open signal that did not stop dosing and by the rule in force does. It remains one signal to review,
    due no later than before."""
    before, given = audit.snapshot(row), _given(session, source, rules, signal)
    given["due_at"] = min(given["due_at"], row.due_at)
    for name, value in given.items():
        setattr(row, name, value)
    row.trigger_corrected_at = None
    add_notifications(session, writes, EventType.safety_signal_raised, row.site_id, SubjectType.safety_signal, [row.id])
    return [_next_version(session, row, before, "safety-signal:raised-anew")]


def _next_version(session: Session, row: SafetySignal, before: dict[str, Any], action: str) -> audit.Event:
    row.version += 1
    session.flush()
    return audit.changed(action, row, row.id, row.version, before, None)


def _raised(
    session: Session, writes: Writes, source: Source, rules: Sequence[SafetyRule], signals: Iterable[Signal]
) -> list[audit.Event]:
    events = []
    for signal in signals:
        row = new_row(SafetySignal, _given(session, source, rules, signal))
        writes.add(SafetySignal, row)
        add_notifications(
            session, writes, EventType.safety_signal_raised, source.site_id, SubjectType.safety_signal, [row["id"]]
        )
        events.append(audit.recorded("safety-signal:raised", SafetySignal, row, row["id"]))
    return events


def _given(session: Session, source: Source, rules: Sequence[SafetyRule], signal: Signal) -> dict[str, Any]:
    """The columns of a signal that is raised now."""
    at, zone = now(), zone_of(session, source.site_id)
    (rule,) = (one for one in rules if one.code == signal.rule)
    return {
        "site_id": source.site_id,
        "pid": source.pid,
        "protocol_version_id": source.protocol_version_id,
        "rule": signal.rule,
        "rule_version": signal.version,
        "severity": SignalSeverity(signal.severity),
        "holds_dosing": signal.holds_dosing,
        source.kind: source.id,
        "source_version": source.version,
        "because": canonical_json(sorted(signal.because)),
        "raised_at": at,
        "due_at": rule.due_at(at, zone),
    }


def holding(session: Session, site_id: int, pid: str) -> Sequence[SafetySignal]:
    """The signals of a participant that hold dosing and are not reviewed, oldest first."""
    return session.exec(_holding(site_id, pid).order_by(col(SafetySignal.raised_at), col(SafetySignal.id))).all()


def rules_holding(session: Session, visit: Visit, at: datetime, day: date) -> set[str]:
    """The rules whose signals should have stopped dosing at a visit, at the moment `at` on the site's day `day`. What
    was measured later did not stop it, in whatever order it was recorded. An outcome has only a day, so one of the same
    day counts. A signal found by a protocol version other than the visit's counts if the visit's version finds it
    too."""
    later = (
        col(VitalReading.taken_at) > at,
        sa.func.coalesce(col(Outcome.collected_on), col(Visit.occurred_on)) > day,
    )
    statement = (
        _holding(visit.site_id, visit.pid)
        .outerjoin(VitalReading, _same(SafetySignal.site_id, SafetySignal.reading_id, VitalReading))
        .outerjoin(Outcome, _same(SafetySignal.site_id, SafetySignal.outcome_id, Outcome))
        .outerjoin(Visit, _same(Outcome.site_id, Outcome.visit_id, Visit))
        .where(sa.not_(sa.func.coalesce(*later, sa.false())))
    )
    own = visit.protocol_version_id
    return {
        signal.rule
        for signal in session.exec(statement).all()
        if own in (None, signal.protocol_version_id) or signal.raised_at <= at or _holds_by(session, own, signal)
    }


def _holds_by(session: Session, version: int, signal: SafetySignal) -> bool:
    """Whether the source of a signal makes its rule true in this protocol version, and the rule there holds dosing."""
    seen: OutcomeSeen | VitalsSeen
    if signal.outcome_id is not None:
        row = session.get_one(Outcome, (signal.site_id, signal.outcome_id))
        seen = _seen(row, scores_of(session, [row])[row.id])
    else:
        seen = VitalsSeen(json.loads(session.get_one(VitalReading, (signal.site_id, signal.reading_id)).measured))
    found = evaluate(protocol_of(session, version).safety_rules, seen)
    return any(one.rule == signal.rule and one.holds_dosing for one in found)


def _holding(site_id: int, pid: str) -> SelectOfScalar[SafetySignal]:
    return select(SafetySignal).where(
        SafetySignal.site_id == site_id,
        SafetySignal.pid == pid,
        SafetySignal.state == SignalState.open,
        col(SafetySignal.holds_dosing),
    )


def _same(site_id: Any, of: Any, table: Any) -> sa.ColumnElement[bool]:
    return sa.and_(col(table.site_id) == col(site_id), col(table.id) == col(of))


def review(session: Session, actor: Actor, signal_id: UUID, body: SignalReview) -> tuple[SafetySignalRead, int]:
    """A clinician's assessment, which ends the hold; also gives the site's key.

    Raises NotFound, SignalAlreadyReviewed.
    """
    row = visible_row(session, actor, SafetySignal, signal_id, lock=True)
    if row.state == SignalState.reviewed:
        raise SignalAlreadyReviewed
    before = audit.snapshot(row)
    row.state, row.decision, row.assessment = SignalState.reviewed, body.decision, body.assessment
    row.reviewed_by, row.reviewed_at, row.version = actor.account_id, now(), row.version + 1
    session.flush()
    event = audit.changed("safety-signal:reviewed", row, row.id, row.version, before, None)
    audit.append(session, actor.account_id, row.site_id, [event])
    return shown(session, actor.places[row.site_id], [row])[0], row.site_id


def rows() -> Rows:
    """Signals with the protocol version whose rule it was; narrow it with `visible`."""
    return (
        sa.select(*columns(SafetySignal), col(ProtocolVersion.version).label("protocol_version"))
        .select_from(SafetySignal)
        .join(ProtocolVersion, col(ProtocolVersion.id) == col(SafetySignal.protocol_version_id))
    )


def read(row: Row[Any], actor: Actor) -> SafetySignalRead:
    return _read(fields_of(row), actor.places[row.site_id], row.protocol_version)


def shown(session: Session, place: Place, signals: Collection[SafetySignal]) -> list[SafetySignalRead]:
    """Signals of one site as answers."""
    asked = {signal.protocol_version_id for signal in signals}
    named = select(ProtocolVersion).where(col(ProtocolVersion.id).in_(asked))
    versions = {version.id: version.version for version in session.exec(named)} if asked else {}
    return [_read(values(signal), place, versions[signal.protocol_version_id]) for signal in signals]


def _read(row: Mapping[str, Any], place: Place, protocol_version: str) -> SafetySignalRead:
    kind = "vital_reading" if row["outcome_id"] is None else "outcome"
    source = SignalSource(kind=kind, id=row["outcome_id"] or row["reading_id"], version=row["source_version"])
    return SafetySignalRead.of_row(
        row,
        participant=row["pid"],
        study=place.study,
        site=place.site,
        protocol_version=protocol_version,
        source=source,
        because=from_json(row["because"]),
        overdue=row["state"] == SignalState.open and row["due_at"] < now(),
    )
