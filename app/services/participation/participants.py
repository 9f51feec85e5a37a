"""Participants after enrolment: loaded, found by the site's label, moved to another protocol version. Enrolment is in
enrolment.py, status in status_changes.py."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy import Row, bindparam, func
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, found, visible
from app.errors import Conflict, Fault, Invalid
from app.models.base import from_json, now, table_of, values
from app.models.consent import Consent
from app.models.data_query import SubjectType
from app.models.finding import Finding, findings_text
from app.models.json_row import ShownPid, StoredJson, answer_fields, json_row
from app.models.participant import EnrolmentFields, Participant, ParticipantLookup, ParticipantRead, ProtocolMove
from app.models.study import ProtocolVersion, Site
from app.models.voided import counts
from app.privacy import vault
from app.protocol.clocks import local_day
from app.protocol.consent import Amendment, current_consent
from app.protocol.definition import Protocol
from app.security.keys import Keyring
from app.services.quality import rule_queries
from app.services.safety import safety_signals
from app.services.studies import protocol_of
from app.services.unlocked import require_not_voided, require_unlocked
from app.site_lists import Filters


class ProtocolVersionUnknown(Invalid):
    """This study has no such protocol version."""


class EnrolmentContradictsProtocol(Invalid):
    """The enrolment names something that the protocol version does not have; see errors."""


class ProtocolVersionTheSame(Conflict):
    """The participant is on this protocol version already."""


class ProtocolVersionNotInForce(Conflict):
    """This protocol version is not in force at the site yet; its last amendment gives the day."""


@dataclass(frozen=True)
class Person:
    """A participant with the codes of site and study, and the protocol version by which records are checked."""

    row: Participant
    place: Place
    protocol_version: str
    protocol: Protocol
    newest: Protocol
    """The study's newest protocol version, which may not be the participant's."""

    @property
    def amendments(self) -> list[Amendment]:
        """The amendments of which this participant may have to be informed, oldest first."""
        return amendments_of(self.protocol, self.newest)

    @property
    def site_id(self) -> int:
        return self.row.site_id

    @property
    def pid(self) -> str:
        return self.row.pid


def amendments_of(protocol: Protocol, newest: Protocol) -> list[Amendment]:
    """The amendments of a participant's protocol version and of the study's newest, oldest first."""
    return sorted([*protocol.amendments, *newest.amendments], key=lambda amendment: amendment.valid_from)


class Hold(Enum):
    """How a participant's row is locked until the commit, so that for example a visit and a withdrawal of consent are
    stored one after the other."""

    none = "none"
    as_it_is = "as it is"
    change = "change"


def visible_person(session: Session, actor: Actor, symbols: str, hold: Hold = Hold.none) -> Person:
    """The participant with this pid, if it exists for the actor. Whoever holds one is about to write something of it,
    and nothing more is written of a voided one. Raises NotFound, RecordVoided."""
    of_study = aliased(ProtocolVersion)
    newest = select(func.max(of_study.id)).where(col(of_study.study_id) == col(ProtocolVersion.study_id))
    statement = (
        select(Participant, ProtocolVersion.version, newest.scalar_subquery())
        .join(ProtocolVersion, col(ProtocolVersion.id) == col(Participant.protocol_version_id))
        .where(col(Participant.pid) == symbols)
    )
    if hold is not Hold.none:  # a foreign key to the participant, as of a data query, does not wait for this lock
        for_change = hold is Hold.change
        statement = statement.with_for_update(of=Participant, read=not for_change, key_share=for_change)
    participant, version, latest = found(session.exec(visible(statement, actor)).first())
    if hold is not Hold.none:
        require_not_voided(participant)
    protocol = protocol_of(session, participant.protocol_version_id)
    place = actor.places[participant.site_id]
    return Person(participant, place, version, protocol, protocol_of(session, latest))


COPIED = frozenset(EnrolmentFields.model_fields)
"""The fields of an enrolment that are stored as they were sent."""


def protocol_version(session: Session, site_id: int, asked: str | None, on: date | None = None) -> Row[Any]:
    """Id and name of a protocol version of the site's study: the one `asked` for, or else the newest that was in force
    on the day `on`, by default today at the site. (An app that was offline when an amendment came into force names the
    version before it.) Raises ProtocolVersionUnknown, ProtocolVersionNotInForce."""
    every = session.execute(_VERSIONS, {"site_id": site_id})
    candidates = [version for version in every if asked in (None, version.version)]
    if not candidates:
        raise ProtocolVersionUnknown(Fault("/protocol_version", "unknown", "The study has no such protocol version"))
    day = on or local_day(now(), ZoneInfo(candidates[0].timezone))
    for version in candidates:
        if protocol_of(session, version.id).holds_from <= day:
            return version
    raise ProtocolVersionNotInForce


_VERSION, _SITE = table_of(ProtocolVersion), table_of(Site)
_VERSIONS = (
    sa.select(_VERSION.c.id, _VERSION.c.version, _SITE.c.timezone)
    .join(_SITE, _SITE.c.study_id == _VERSION.c.study_id)
    .where(_SITE.c.id == sa.bindparam("site_id"))
    .order_by(_VERSION.c.id.desc())
)
"""The protocol versions of the study of a site, newest first."""


def require_in_force(protocol: Protocol, on: date) -> None:
    """Raises ProtocolVersionNotInForce."""
    if on < protocol.holds_from:
        raise ProtocolVersionNotInForce


def recorded_by(session: Session, person: Person, version: int | None) -> Protocol:
    """The protocol version by which a visit was recorded; the participant may have another one by now."""
    return person.protocol if version is None else protocol_of(session, version)


def unknown_arms(protocol: Protocol, fields: EnrolmentFields) -> list[Fault]:
    known = {arm.code for arm in protocol.arms} | {None}
    return [
        Fault(f"/{name}", "unknown_arm", "The protocol has no such arm")
        for name in ("planned_arm", "actual_arm")
        if getattr(fields, name) not in known
    ]


def consent_findings(
    protocol: Protocol, given: Collection[tuple[str, date | None]], enrolled_on: date | None
) -> list[Finding]:
    """The findings on the days of a participant's consents, `given` as version and day. Consent comes before taking
    part (ICH E6(R2), 4.8.8), on the form in force that day (4.8.2)."""
    if not given:
        return [_of_consent("consent_missing", "No consent is recorded")]
    days = [day for _, day in given if day is not None]
    if len(days) < len(given):
        return [_of_consent("consent_date_missing", "The day of consent is unknown")]
    findings, first = [], min(days, default=None)
    if first and enrolled_on is not None and first > enrolled_on:
        findings.append(_of_consent("consent_after_enrolment", "Consent was given after the enrolment"))
    current = current_consent(protocol.consents, protocol.amendments, first) if first else None
    if first and (current is None or (current.version, first) not in given):
        findings.append(_of_consent("consent_not_in_force", "Another version of the consent was in force that day"))
    return findings


def _of_consent(code: str, message: str) -> Finding:
    return Finding(code=code, field="/consent/given_on", message=message)


def find_by_label(session: Session, actor: Actor, keyring: Keyring, body: ParticipantLookup) -> ParticipantRead:
    """The participant with this label of the site. The look-up is remembered. Raises NotFound."""
    site_id = actor.site_at(body.study, body.site)
    symbols = found(vault.find_pid(session, keyring, site_id, body.site_local_id))
    read = read_one(session, actor, symbols)
    event = audit.Event("vault:looked-up", "participant", symbols, read.version, [])
    audit.append(session, actor.account_id, site_id, [event])
    return read


def follow_findings(session: Session, row: Participant) -> None:
    """Work out the findings of a participant again, on the days of consent and the enrolment."""
    session.flush()
    theirs = select(Consent).where(Consent.site_id == row.site_id, Consent.pid == row.pid, counts(Consent))
    consents = session.exec(theirs).all()
    days = [(one.version, one.given_on) for one in consents]
    findings = consent_findings(protocol_of(session, row.protocol_version_id), days, row.enrolled_on)
    if row.enrolled_on is not None and not row.eligible:
        message = "Enrolled, yet a criterion is not met or open"
        findings.append(Finding(code="enrolled_not_eligible", field="/unmet_criteria", message=message))
    row.findings = findings_text(findings)


def move_on(row: Participant) -> None:
    """Count the version up once a consent, a withdrawal, an earlier treatment or a screening was corrected or voided:
    whoever verified the participant has to look again."""
    row.version, row.updated_at = row.version + 1, now()


def judged_again(session: Session, row: Participant) -> rule_queries.Judged:
    """The same after a consent was given or voided. That is no change of the participant: the version stays."""
    had = from_json(row.findings)
    follow_findings(session, row)
    has = from_json(row.findings)
    turned = rule_queries.turned(SubjectType.participant, row.pid, None, had, has)
    if had == has:
        return rule_queries.Judged([], [turned])
    row.updated_at = now()
    session.flush()
    change = {"findings": had}, {"findings": has}
    event = audit.event("participant:flagged", "participant", row.pid, row.version, *change)
    return rule_queries.Judged([event], [turned])


def move(session: Session, actor: Actor, symbols: str, body: ProtocolMove) -> tuple[ParticipantRead, int]:
    """Move a participant to another protocol version of the study. Its safety rules are applied to the stored records.

    Raises NotFound, ProtocolVersionUnknown, ProtocolVersionNotInForce, ProtocolVersionTheSame.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    row, before = person.row, audit.snapshot(person.row)
    version = protocol_version(session, row.site_id, body.version)
    if version.id == row.protocol_version_id:
        raise ProtocolVersionTheSame
    require_unlocked(session, row.site_id, row.pid)
    row.protocol_version_id = version.id
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    event = audit.changed("participant:moved", row, row.pid, row.version, before, body.reason)
    audit.append(session, actor.account_id, row.site_id, [event, *safety_signals.judged_again(session, row)])
    return participant_read(values(row), person.place, version.version), row.site_id


@cache
def listed() -> Rows:
    """Participants as the JSON of their answers, with the site and the columns that pages are ordered by."""
    people, versions = table_of(Participant), table_of(ProtocolVersion)
    made = {
        "pid": ShownPid(people.c.pid),
        "protocol_version": versions.c.version,
        "unmet_criteria": StoredJson(people.c.unmet_criteria),
        "findings": StoredJson(people.c.findings),
    }
    joined = people.join(versions, versions.c.id == people.c.protocol_version_id)
    shown = json_row("participant", answer_fields(ParticipantRead, people, made)), people.c.site_id
    return sa.select(*shown, people.c.created_at, people.c.pid).select_from(joined)


FILTERS: Filters = {
    "status": col(Participant.status) == bindparam("status"),
    "voided": {False: counts(Participant), True: ~counts(Participant)},
}


def read_one(session: Session, actor: Actor, symbols: str) -> ParticipantRead:
    person = visible_person(session, actor, symbols)
    return participant_read(values(person.row), person.place, person.protocol_version)


def participant_read(values: Mapping[str, Any], place: Place, protocol_version: str) -> ParticipantRead:
    return ParticipantRead.of_row(
        values,
        study=place.study,
        site=place.site,
        protocol_version=protocol_version,
        unmet_criteria=from_json(values["unmet_criteria"]),
        findings=from_json(values["findings"]),
    )
