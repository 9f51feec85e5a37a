"""Enrolment and status of participants."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, found, visible
from app.database import unique_or
from app.errors import Conflict, Fault, Invalid
from app.models.base import canonical_json, from_json, now, table_of, values
from app.models.course import ProtocolMove, Screening
from app.models.finding import Finding, findings_text
from app.models.json_row import ShownPid, StoredJson, json_row
from app.models.participant import (
    STATUS_TRANSITIONS,
    Consent,
    EnrolmentFields,
    Participant,
    ParticipantAmend,
    ParticipantCreate,
    ParticipantLookup,
    ParticipantRead,
    ParticipantStatus,
    StatusChange,
)
from app.models.study import ProtocolVersion, Site
from app.privacy import vault
from app.protocol.definition import Protocol
from app.protocol.eligibility import Eligibility, eligibility
from app.security.keys import Keyring
from app.services import pid_reservations, rule_queries
from app.services.studies import protocol_of, site_by_code
from app.services.unlocked import require_unlocked
from app.web.conditional import require_current
from app.web.merging import checked, sent_fields

DATA_SHARING = "data_sharing"


class ProtocolVersionUnknown(Invalid):
    """This study has no such protocol version."""


class EnrolmentContradictsProtocol(Invalid):
    """The enrolment names something that the protocol version does not have; see errors."""


class NotEligible(Conflict):
    """Screening has not found this person eligible, so nobody can enrol them."""


class ProtocolVersionTheSame(Conflict):
    """The participant goes by this protocol version already."""


class StatusTransitionImpossible(Conflict):
    """A participant in the present status cannot go to that one."""


@dataclass(frozen=True)
class Enrolled:
    """A participant with the codes of site and study, and the protocol that rules what may be recorded."""

    row: Participant
    place: Place
    protocol_version: str
    protocol: Protocol

    @property
    def site_id(self) -> int:
        return self.row.site_id

    @property
    def pid(self) -> str:
        return self.row.pid


class Hold(Enum):
    """How a participant's row is held until the commit, so that a visit and a withdrawal cannot pass each other."""

    none = "none"
    as_it_is = "as it is"
    change = "change"


def enrolled(session: Session, actor: Actor, symbols: str, hold: Hold = Hold.none) -> Enrolled:
    """The participant with this pid, if it exists for the actor. Raises NotFound."""
    statement = (
        select(Participant, ProtocolVersion.version)
        .join(ProtocolVersion, col(ProtocolVersion.id) == col(Participant.protocol_version_id))
        .where(col(Participant.pid) == symbols)
    )
    if hold is not Hold.none:
        statement = statement.with_for_update(of=Participant, read=hold is Hold.as_it_is)
    participant, version = found(session.exec(visible(statement, actor)).first())
    protocol = protocol_of(session, participant.protocol_version_id)
    return Enrolled(participant, actor.places[participant.site_id], version, protocol)


def enrol(session: Session, actor: Actor, keyring: Keyring, body: ParticipantCreate) -> tuple[ParticipantRead, int]:
    """Register a person under a new pid; also gives the site's key.

    Raises NotFound (study, site), LabelAlreadyEnrolled, PidAlreadyEnrolled, PidNotReserved, ProtocolVersionUnknown,
    EnrolmentContradictsProtocol.
    """
    site = site_by_code(session, actor, body.study, body.site)
    version = _protocol_version(session, site, body.protocol_version)
    assert site.id is not None
    assert version.id is not None
    protocol = protocol_of(session, version.id)
    _require_known_codes(protocol, body)
    require_unlocked(session, site.id, None)
    told = _eligibility(protocol, body)
    row = Participant(
        site_id=site.id,
        pid=_pid(session, keyring, site.id, body),
        protocol_version_id=version.id,
        status=_first_status(body, told),
        status_on=body.enrolled_on or body.screened_on,
        eligible=told.eligible is True,
        unmet_criteria=canonical_json(sorted(told.unmet)),
        findings=findings_text(_findings(body)),
        created_by=actor.account_id,
        **body.model_dump(include=_COPIED),
    )
    session.add(row)
    with unique_or(pid_reservations.PidAlreadyEnrolled if body.pid else vault.LabelAlreadyEnrolled):
        session.flush()  # refused when another attempt at the same moment was first
    if body.pid is not None:
        vault.store_under(session, keyring, site.id, row.pid, body.site_local_id)
    consent = _consent(row, body)
    session.add(consent)
    session.flush()
    screening = Screening(
        site_id=site.id,
        pid=row.pid,
        number=1,
        protocol_version_id=version.id,
        screened_on=row.screened_on,
        answers=canonical_json(body.eligibility.answers or {}),
        eligible=told.eligible,
        unmet=canonical_json(sorted(told.unmet)),
        recorded_by=actor.account_id,
    )
    session.add(screening)
    session.flush()
    events = [
        audit.created("participant:enrolled", row, row.pid),
        audit.created("consent:recorded", consent, f"{row.pid}/{consent.version}"),
        audit.created("screening:recorded", screening, f"{row.pid}/1"),
    ]
    rule_queries.follow(session, row)
    audit.append(session, str(actor.account_id), site.id, events)
    return _read(values(row), actor.places[site.id], version.version), site.id


_COPIED = {
    "age_at_consent",
    "sex",
    "race",
    "ethnicity",
    "planned_arm",
    "actual_arm",
    "screened_on",
    "enrolled_on",
}


def _protocol_version(session: Session, site: Site, asked: str | None) -> ProtocolVersion:
    statement = select(ProtocolVersion).where(ProtocolVersion.study_id == site.study_id)
    if asked is not None:
        statement = statement.where(ProtocolVersion.version == asked)
    version = session.exec(statement.order_by(col(ProtocolVersion.id).desc())).first()
    if version is None:
        raise ProtocolVersionUnknown(Fault("/protocol_version", "unknown", "The study has no such protocol version"))
    return version


def _require_known_codes(protocol: Protocol, body: ParticipantCreate) -> None:
    faults = []
    consent = next((item for item in protocol.consents if item.version == body.consent.version), None)
    if consent is None:
        faults.append(Fault("/consent/version", "unknown_consent", "The protocol has no such consent version"))
    elif not set(body.consent.scopes) <= set(consent.scopes):
        faults.append(Fault("/consent/scopes", "unknown_scope", "The consent version has no such scope"))
    for name in ("unmet", "answers"):
        if not set(getattr(body.eligibility, name) or ()) <= {criterion.code for criterion in protocol.eligibility}:
            faults.append(Fault(f"/eligibility/{name}", "unknown_criterion", "The protocol has no such criterion"))
    faults += _unknown_arms(protocol, body)
    if faults:
        raise EnrolmentContradictsProtocol(*faults)


def _unknown_arms(protocol: Protocol, fields: EnrolmentFields) -> list[Fault]:
    known = {arm.code for arm in protocol.arms} | {None}
    return [
        Fault(f"/{name}", "unknown_arm", "The protocol has no such arm")
        for name in ("planned_arm", "actual_arm")
        if getattr(fields, name) not in known
    ]


def _eligibility(protocol: Protocol, body: ParticipantCreate) -> Eligibility:
    """What screening came to, by the answers or as the site says. Raises EnrolmentContradictsProtocol."""
    given = body.eligibility
    if given.answers is None:
        return Eligibility(given.met, tuple(given.unmet), ())
    told = eligibility(protocol.eligibility, given.answers)
    if body.enrolled_on and told.eligible is not True:
        message = "Nobody is enrolled while a criterion is open or not met"
        raise EnrolmentContradictsProtocol(Fault("/enrolled_on", "not_eligible", message))
    return told


def _first_status(body: ParticipantCreate, told: Eligibility) -> ParticipantStatus:
    if told.eligible is False:
        return ParticipantStatus.screen_failed
    return ParticipantStatus.enrolled if body.enrolled_on else ParticipantStatus.screened


def _findings(body: ParticipantCreate) -> list[Finding]:
    if body.consent.given_on is None:
        return [
            Finding(
                code="consent_date_missing",
                field="/consent/given_on",
                message="The day of consent is unknown",
            )
        ]
    return []


def _consent(row: Participant, body: ParticipantCreate) -> Consent:
    return Consent(
        site_id=row.site_id,
        pid=row.pid,
        version=body.consent.version,
        given_on=body.consent.given_on,
        scopes=canonical_json(sorted(set(body.consent.scopes))),
        data_sharing=DATA_SHARING in body.consent.scopes,
    )


def _pid(session: Session, keyring: Keyring, site_id: int, body: ParticipantCreate) -> str:
    """The pid to enrol under: the one on the person's label, or that of an attempt that broke off, or a new one."""
    if body.pid is not None:
        return pid_reservations.reserved(session, site_id, body.pid)
    return vault.reserve(session, keyring, site_id, body.site_local_id, lambda: pid_reservations.fresh(session)[0])


def find_by_label(session: Session, actor: Actor, keyring: Keyring, body: ParticipantLookup) -> ParticipantRead:
    """The participant that this site knows under its own label. Raises NotFound."""
    site = site_by_code(session, actor, body.study, body.site)
    assert site.id is not None
    symbols = found(vault.find_pid(session, keyring, site.id, body.site_local_id))
    read = read_one(session, actor, symbols)
    event = audit.Event("vault:looked-up", "participant", symbols, read.version, [])
    audit.append(session, str(actor.account_id), site.id, [event])
    return read


def amend_participant(
    session: Session, actor: Actor, keyring: Keyring, seen: str, symbols: str, body: ParticipantAmend
) -> ParticipantRead:
    """Correct what was entered at enrolment. Raises NotFound, VersionStale, ValidationFailed, and Invalid refusals."""
    person = enrolled(session, actor, symbols, hold=Hold.change)
    row, before, changes = person.row, audit.snapshot(person.row), sent_fields(body)
    differing = {name for name, value in changes.items() if getattr(row, name) != value}
    require_current(keyring, seen, row.pid, row.version, differing)
    merged = checked(EnrolmentFields, {**{name: getattr(row, name) for name in _COPIED}, **changes})
    if not differing:
        return _read(values(row), person.place, person.protocol_version)
    faults = _unknown_arms(person.protocol, merged)
    if (merged.enrolled_on is None) != (row.enrolled_on is None):
        faults.append(Fault("/enrolled_on", "by_status", "Enrolment is a change of status; only its day is corrected"))
    if faults:
        raise EnrolmentContradictsProtocol(*faults)
    require_unlocked(session, row.site_id, row.pid)
    for name in _COPIED:
        setattr(row, name, getattr(merged, name))
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    event = audit.changed("participant:amended", row, row.pid, row.version, before, audit.snapshot(row), body.reason)
    audit.append(session, str(actor.account_id), row.site_id, [event])
    return _read(values(row), person.place, person.protocol_version)


def change_status(session: Session, actor: Actor, symbols: str, body: StatusChange) -> tuple[ParticipantRead, int]:
    """Move a participant along the status model. Raises NotFound, StatusTransitionImpossible, NotEligible."""
    person = enrolled(session, actor, symbols, hold=Hold.change)
    row, before = person.row, audit.snapshot(person.row)
    if body.status not in STATUS_TRANSITIONS[ParticipantStatus(row.status)]:
        raise StatusTransitionImpossible(Fault("/status", "impossible", f"From {row.status} that is not possible"))
    if body.status is ParticipantStatus.enrolled and not row.eligible:
        raise NotEligible
    require_unlocked(session, row.site_id, row.pid)
    row.status, row.status_on = body.status, body.effective_on
    if body.status is ParticipantStatus.enrolled:
        row.enrolled_on = body.effective_on
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    event = audit.changed(
        "participant:status-changed", row, row.pid, row.version, before, audit.snapshot(row), body.reason
    )
    audit.append(session, str(actor.account_id), row.site_id, [event])
    read = _read(values(row), person.place, person.protocol_version)
    return read, row.site_id


def move(session: Session, actor: Actor, symbols: str, body: ProtocolMove) -> ParticipantRead:
    """Let a participant go on by another protocol version of the study.

    Raises NotFound, ProtocolVersionUnknown, ProtocolVersionTheSame.
    """
    person = enrolled(session, actor, symbols, hold=Hold.change)
    row, before = person.row, audit.snapshot(person.row)
    version = _protocol_version(session, session.get_one(Site, row.site_id), body.version)
    if version.id == row.protocol_version_id or version.id is None:
        raise ProtocolVersionTheSame
    require_unlocked(session, row.site_id, row.pid)
    row.protocol_version_id = version.id
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    after = audit.snapshot(row)
    event = audit.changed("participant:moved", row, row.pid, row.version, before, after, body.reason)
    audit.append(session, str(actor.account_id), row.site_id, [event])
    return _read(values(row), person.place, version.version)


@cache
def listed() -> Rows:
    """Participants as the JSON of their answers, with the site; narrow it with `visible`."""
    people, versions = table_of(Participant), table_of(ProtocolVersion)
    fields: dict[str, Any] = {name: people.c[name] for name in sorted(_SHOWN - {"pid"})}
    fields |= {
        "pid": ShownPid(people.c.pid),
        "protocol_version": versions.c.version,
        "unmet_criteria": StoredJson(people.c.unmet_criteria),
        "findings": StoredJson(people.c.findings),
    }
    joined = people.join(versions, versions.c.id == people.c.protocol_version_id)
    return sa.select(json_row("participant", fields), people.c.site_id).select_from(joined)


def read_one(session: Session, actor: Actor, symbols: str) -> ParticipantRead:
    person = enrolled(session, actor, symbols)
    return _read(values(person.row), person.place, person.protocol_version)


def _read(values: Mapping[str, Any], place: Place, protocol_version: str) -> ParticipantRead:
    return ParticipantRead(
        study=place.study,
        site=place.site,
        protocol_version=protocol_version,
        unmet_criteria=from_json(values["unmet_criteria"]),
        findings=from_json(values["findings"]),
        **{name: values[name] for name in _SHOWN},
    )


_SHOWN = _COPIED | {"pid", "status", "status_on", "eligible", "version", "created_at", "updated_at"}
