"""Participants once they are enrolled: found, moved along their status. The enrolment beside enrols and corrects."""

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
from app.models.finding import Finding, findings_text
from app.models.json_row import ShownPid, StoredJson, json_row
from app.models.participant import EnrolmentFields, Participant, ParticipantLookup, ParticipantRead, ProtocolMove
from app.models.study import ProtocolVersion, Site
from app.privacy import vault
from app.protocol.clocks import local_day
from app.protocol.consent import Amendment, current_consent
from app.protocol.definition import Protocol
from app.security.keys import Keyring
from app.services import safety_signals
from app.services.studies import protocol_of
from app.services.unlocked import require_unlocked
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
    """A participant with the codes of site and study, and the protocol that rules what may be recorded."""

    row: Participant
    place: Place
    protocol_version: str
    protocol: Protocol
    newest: Protocol
    """The study's newest version, whether the participant goes by it or not."""

    @property
    def amendments(self) -> list[Amendment]:
        """Those of which this participant may have to be told, whichever version they go by; oldest first."""
        return amendments_of(self.protocol, self.newest)

    @property
    def site_id(self) -> int:
        return self.row.site_id

    @property
    def pid(self) -> str:
        return self.row.pid


def amendments_of(protocol: Protocol, newest: Protocol) -> list[Amendment]:
    """Those of the version that somebody goes by and of the study's newest, oldest first."""
    return sorted([*protocol.amendments, *newest.amendments], key=lambda one: one.valid_from)


class Hold(Enum):
    """How a participant's row is held until the commit, so that a visit and a withdrawal cannot pass each other."""

    none = "none"
    as_it_is = "as it is"
    change = "change"


def visible_person(session: Session, actor: Actor, symbols: str, hold: Hold = Hold.none) -> Person:
    """The participant with this pid, if it exists for the actor. Raises NotFound."""
    of_study = aliased(ProtocolVersion)
    newest = select(func.max(of_study.id)).where(col(of_study.study_id) == col(ProtocolVersion.study_id))
    statement = (
        select(Participant, ProtocolVersion.version, newest.scalar_subquery())
        .join(ProtocolVersion, col(ProtocolVersion.id) == col(Participant.protocol_version_id))
        .where(col(Participant.pid) == symbols)
    )
    if hold is not Hold.none:  # what only refers to them, such as a data query, need not wait
        for_change = hold is Hold.change
        statement = statement.with_for_update(of=Participant, read=not for_change, key_share=for_change)
    participant, version, latest = found(session.exec(visible(statement, actor)).first())
    protocol = protocol_of(session, participant.protocol_version_id)
    place = actor.places[participant.site_id]
    return Person(participant, place, version, protocol, protocol_of(session, latest))


COPIED = frozenset(EnrolmentFields.model_fields)
"""What is stored of an enrolment as it was sent."""


def protocol_version(session: Session, site_id: int, asked: str | None, on: date | None = None) -> Row[Any]:
    """Id and name of the version that was asked for, or else of the study's newest of those in force on that day, or
    today at the site. (An app that was offline when an amendment came into force sends enrolments under the version
    before it.) Raises ProtocolVersionUnknown, ProtocolVersionNotInForce."""
    every = session.execute(_VERSIONS, {"site_id": site_id})
    known = [version for version in every if asked in (None, version.version)]
    if not known:
        raise ProtocolVersionUnknown(Fault("/protocol_version", "unknown", "The study has no such protocol version"))
    day = on or local_day(now(), ZoneInfo(known[0].timezone))
    for version in known:
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
"""Of the study of a site, the newest first."""


def require_in_force(protocol: Protocol, on: date) -> None:
    """Raises ProtocolVersionNotInForce."""
    if on < protocol.holds_from:
        raise ProtocolVersionNotInForce


def recorded_by(session: Session, person: Person, version: int | None) -> Protocol:
    """The version by which a visit was recorded, whatever the participant goes by now."""
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
    """What is doubtful about the days of somebody's consents, each with its version. Consent comes before taking part
    (ICH E6(R2), 4.8.8), on the form in force that day (4.8.2)."""
    days = [day for _, day in given if day is not None]
    if len(days) < len(given):
        return [_of_consent("consent_date_missing", "The day of consent is unknown")]
    found, first = [], min(days, default=None)
    if first and enrolled_on is not None and first > enrolled_on:
        found.append(_of_consent("consent_after_enrolment", "Consent was given after the enrolment"))
    current = current_consent(protocol.consents, protocol.amendments, first) if first else None
    if first and (current is None or (current.version, first) not in given):
        found.append(_of_consent("consent_not_in_force", "Another version of the consent was in force that day"))
    return found


def _of_consent(code: str, message: str) -> Finding:
    return Finding(code=code, field="/consent/given_on", message=message)


def find_by_label(session: Session, actor: Actor, keyring: Keyring, body: ParticipantLookup) -> ParticipantRead:
    """The participant that this site knows under its own label. Raises NotFound."""
    site_id = actor.site_at(body.study, body.site)
    symbols = found(vault.find_pid(session, keyring, site_id, body.site_local_id))
    read = read_one(session, actor, symbols)
    event = audit.Event("vault:looked-up", "participant", symbols, read.version, [])
    audit.append(session, actor.account_id, site_id, [event])
    return read


def follow_findings(session: Session, row: Participant) -> None:
    """Judge the days of consent, and the enrolment, again: their findings may have come or gone."""
    session.flush()
    given = session.exec(select(Consent).where(Consent.site_id == row.site_id, Consent.pid == row.pid)).all()
    days = [(one.version, one.given_on) for one in given]
    found = consent_findings(protocol_of(session, row.protocol_version_id), days, row.enrolled_on)
    if row.enrolled_on is not None and not row.eligible:
        message = "Enrolled, yet a criterion is not met or open"
        found.append(Finding(code="enrolled_not_eligible", field="/unmet_criteria", message=message))
    row.findings = findings_text(found)


def move(session: Session, actor: Actor, symbols: str, body: ProtocolMove) -> tuple[ParticipantRead, int]:
    """Let a participant go on by another protocol version of the study, and by its safety rules.

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
    audit.append(session, actor.account_id, row.site_id, [event, *safety_signals.seen_anew(session, row)])
    return participant_read(values(row), person.place, version.version), row.site_id


@cache
def listed() -> Rows:
    """Participants as the JSON of their answers, with the site and what lists of them go by."""
    people, versions = table_of(Participant), table_of(ProtocolVersion)
    fields: dict[str, Any] = {name: people.c[name] for name in sorted(_SHOWN - {"pid"})}
    fields |= {
        "pid": ShownPid(people.c.pid),
        "protocol_version": versions.c.version,
        "unmet_criteria": StoredJson(people.c.unmet_criteria),
        "findings": StoredJson(people.c.findings),
    }
    joined = people.join(versions, versions.c.id == people.c.protocol_version_id)
    shown = json_row("participant", fields), people.c.site_id
    return sa.select(*shown, people.c.created_at, people.c.pid).select_from(joined)


FILTERS: Filters = {"status": col(Participant.status) == bindparam("status")}


def read_one(session: Session, actor: Actor, symbols: str) -> ParticipantRead:
    person = visible_person(session, actor, symbols)
    return participant_read(values(person.row), person.place, person.protocol_version)


def participant_read(values: Mapping[str, Any], place: Place, protocol_version: str) -> ParticipantRead:
    return ParticipantRead(
        study=place.study,
        site=place.site,
        protocol_version=protocol_version,
        unmet_criteria=from_json(values["unmet_criteria"]),
        findings=from_json(values["findings"]),
        **{name: values[name] for name in _SHOWN},
    )


_SHOWN = COPIED | {"pid", "status", "status_on", "eligible", "version", "created_at", "updated_at"}
