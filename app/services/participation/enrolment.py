"""Enrolment: a person gets a pid, with consent and first screening; and corrections of what was entered then."""

from collections.abc import Collection
from typing import Any

from sqlmodel import Session

from app import audit
from app.access import Actor
from app.database import unique_or
from app.errors import Fault
from app.models.base import canonical_json, new_row, now, values
from app.models.consent import Consent, ConsentAmend, WithdrawalScope, consent_name
from app.models.finding import findings_text
from app.models.participant import (
    FOLLOWS_ENROLMENT,
    EnrolmentFields,
    Participant,
    ParticipantAmend,
    ParticipantCreate,
    ParticipantRead,
    ParticipantStatus,
    began,
)
from app.models.screening import Screening
from app.privacy import vault
from app.protocol.definition import Protocol
from app.protocol.eligibility import Eligibility, eligibility
from app.security.keys import Keyring
from app.services.participation import consent_history, consents, pid_reservations, screenings, sharing
from app.services.participation.participants import (
    COPIED,
    EnrolmentContradictsProtocol,
    Hold,
    Person,
    consent_findings,
    follow_findings,
    participant_read,
    protocol_version,
    unknown_arms,
    visible_person,
)
from app.services.participation.status_changes import StatusOutOfOrder
from app.services.quality import dependent_findings, rule_queries
from app.services.quality.rule_queries import Judged, together
from app.services.site_days import require_past
from app.services.studies import protocol_of
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import Seen
from app.web.merging import corrected, sent_fields
from app.writing import Writes, store


def enrol(
    session: Session, actor: Actor, keyring: Keyring, body: ParticipantCreate
) -> tuple[ParticipantRead, int, Writes]:
    """Register a person under a pid. The participant and the site's label are stored at once, so that a conflict of
    either is refused as what it is; gives the answer, the site's key, and the rest to be stored with the answer.

    Raises NotFound (study, site), LabelAlreadyEnrolled, PidAlreadyEnrolled, PidNotReserved, ProtocolVersionUnknown,
    ProtocolVersionNotInForce, EnrolmentContradictsProtocol.
    """
    site_id = actor.site_at(body.study, body.site)
    require_past(actor, site_id, body)
    version = protocol_version(session, site_id, body.protocol_version, body.enrolled_on)
    protocol = protocol_of(session, version.id)
    _require_known_codes(protocol, body)
    require_unlocked(session, site_id, None)
    assessed = _eligibility(protocol, body)
    consent = [(body.consent.version, body.consent.given_on)]
    fields = {
        "site_id": site_id,
        "pid": _pid(session, keyring, site_id, body),
        "protocol_version_id": version.id,
        "status": _first_status(body, assessed),
        "status_on": body.enrolled_on or body.screened_on,
        "eligible": assessed.eligible is True,
        "unmet_criteria": canonical_json(sorted(assessed.unmet)),
        "findings": findings_text(consent_findings(protocol, consent, body.enrolled_on)),
        "created_by": actor.account_id,
        **{name: getattr(body, name) for name in COPIED},
    }
    row = new_row(Participant, fields)
    _store(session, keyring, row, body)
    writes = _with_consent_and_screening(session, actor, row, body, assessed)
    return participant_read(row, actor.places[site_id], version.version), site_id, writes


def _store(session: Session, keyring: Keyring, row: dict[str, Any], body: ParticipantCreate) -> None:
    """Store the participant, and the label too if the pid was reserved. (Without one, `_pid` has stored the label.)"""
    person = Writes()
    person.add(Participant, row)
    with unique_or(pid_reservations.PidAlreadyEnrolled if body.pid else vault.LabelAlreadyEnrolled):
        store(session, person)  # refused if another enrolment was stored meanwhile
    if body.pid is not None:
        vault.store_under(session, keyring, row["site_id"], row["pid"], body.site_local_id)


def _with_consent_and_screening(
    session: Session, actor: Actor, row: dict[str, Any], body: ParticipantCreate, assessed: Eligibility
) -> Writes:
    """The consent, the first screening, data queries and the audit entries."""
    of_person, writes = {name: row[name] for name in ("site_id", "pid")}, Writes()
    given = {"version": body.consent.version, "given_on": body.consent.given_on, **consents.ticked(body.consent.scopes)}
    consent = new_row(Consent, {**of_person, **given})
    screened = {
        "number": 1,
        "protocol_version_id": row["protocol_version_id"],
        "screened_on": row["screened_on"],
        "answers": canonical_json(body.eligibility.answers or {}),
        "eligible": assessed.eligible,
        "unmet": row["unmet_criteria"],
        "recorded_by": actor.account_id,
    }
    screening = new_row(Screening, {**of_person, **screened})
    writes.add(Consent, consent)
    writes.add(Screening, screening)
    rule_queries.raise_for_new(session, writes, Participant, row)
    writes.remember(
        actor.account_id,
        row["site_id"],
        audit.recorded("participant:enrolled", Participant, row, row["pid"]),
        audit.recorded("consent:recorded", Consent, consent, consent_name(row["pid"], consent["version"], 1)),
        audit.recorded("screening:recorded", Screening, screening, f"{row['pid']}/1"),
    )
    return writes


def _require_known_codes(protocol: Protocol, body: ParticipantCreate) -> None:
    faults = consents.faults_of(protocol, body.consent.version, body.consent.scopes, "/consent")
    for name in ("unmet", "answers"):
        if not set(getattr(body.eligibility, name) or ()) <= {criterion.code for criterion in protocol.eligibility}:
            faults.append(Fault(f"/eligibility/{name}", "unknown_criterion", "The protocol has no such criterion"))
    faults += unknown_arms(protocol, body)
    if faults:
        raise EnrolmentContradictsProtocol(*faults)


def _eligibility(protocol: Protocol, body: ParticipantCreate) -> Eligibility:
    """The eligibility by the answers to the criteria, or the overall answer of the site. Raises
    EnrolmentContradictsProtocol."""
    sent = body.eligibility
    if sent.answers is None:
        return Eligibility(sent.met, tuple(sent.unmet), ())
    answered = eligibility(protocol.eligibility, sent.answers)
    if body.enrolled_on and answered.eligible is not True:
        message = "Nobody is enrolled while a criterion is open or not met"
        raise EnrolmentContradictsProtocol(Fault("/enrolled_on", "not_eligible", message))
    return answered


def _first_status(body: ParticipantCreate, assessed: Eligibility) -> ParticipantStatus:
    if assessed.eligible is False:
        return ParticipantStatus.screen_failed
    return ParticipantStatus.enrolled if body.enrolled_on else ParticipantStatus.screened


def _pid(session: Session, keyring: Keyring, site_id: int, body: ParticipantCreate) -> str:
    """The pid to enrol under: a reserved one that was sent, or the one that the vault has for this label after an
    attempt that broke off, or a new one."""
    if body.pid is not None:
        return pid_reservations.reserved(session, site_id, body.pid)
    return vault.reserve(session, keyring, site_id, body.site_local_id, lambda: pid_reservations.fresh(session)[0])


def amend_participant(
    session: Session, actor: Actor, keyring: Keyring, seen: Seen, symbols: str, body: ParticipantAmend
) -> tuple[ParticipantRead, int]:
    """Correct what was entered at enrolment; also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, ValidationFailed, EnrolmentContradictsProtocol, StatusOutOfOrder,
    ScreeningOutOfOrder, DataLocked, WithdrawalBeforeConsent, and of a label LabelErased, LabelAlreadyEnrolled,
    EnrolmentUnderWay.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    row, before, changes = person.row, audit.snapshot(person.row), sent_fields(body)
    require_past(actor, person.site_id, body)
    changes.pop("consent", None)
    changes.pop("site_local_id", None)
    differing = {name for name, value in changes.items() if getattr(row, name) != value}
    consent = _consent_to_correct(session, row, body.consent) if body.consent else None
    if consent:
        differing.add("consent")
    if body.site_local_id:
        differing.add("site_local_id")  # also the same one: where the vault is apart, an earlier try may be half done
    seen.require_current(row.pid, row.version, differing)
    merged = corrected(EnrolmentFields, {**{name: getattr(row, name) for name in COPIED}, **changes})
    if not differing:
        return participant_read(values(row), person.place, person.protocol_version), row.site_id
    faults = unknown_arms(person.protocol, merged)
    if (merged.enrolled_on is None) != (row.enrolled_on is None):
        faults.append(Fault("/enrolled_on", "by_status", "Enrolment is a change of status; only its day is corrected"))
    if faults:
        raise EnrolmentContradictsProtocol(*faults)
    _require_before_what_follows(row, merged)
    require_unlocked(session, row.site_id, row.pid)
    dated_by = _DATED_BY.get(ParticipantStatus(row.status))
    if dated_by and row.status_on == getattr(row, dated_by):
        row.status_on = getattr(merged, dated_by)
    for name in COPIED:
        setattr(row, name, getattr(merged, name))
    row.version, row.updated_at = row.version + 1, now()
    others = _corrected_beside(session, keyring, person, body, consent, differing)
    follow_findings(session, row)
    event = audit.changed("participant:amended", row, row.pid, row.version, before, body.reason)
    rule_queries.follow(session, row, before["findings"], *others.turned)
    audit.append(session, actor.account_id, row.site_id, [*others.events, event])
    return participant_read(values(row), person.place, person.protocol_version), row.site_id


def _corrected_beside(
    session: Session,
    keyring: Keyring,
    person: Person,
    body: ParticipantAmend,
    consent: Consent | None,
    differing: Collection[str],
) -> Judged:
    """Correct consent, screening and label, which have rows of their own, and judge again what depends on the consent
    or on the day of the screening."""
    others: list[Judged] = []
    if body.consent and consent:
        event = _corrected_consent(session, person, consent, body.consent, body.reason)
        others += [Judged([event], []), dependent_findings.after_consent(session, person)]
    if "screened_on" in differing:
        event = screenings.redate(session, person.row, person.row.screened_on, body.reason)
        others += [Judged([event], []), dependent_findings.after_screening_day(session, person)]
    if body.site_local_id:
        others.append(Judged([_relabelled(session, keyring, person.row, body.site_local_id, body.reason)], []))
    return together(*others)


def _relabelled(session: Session, keyring: Keyring, row: Participant, label: str, reason: str) -> audit.Event:
    """Let the site find this participant by another label. Raises LabelErased, LabelAlreadyEnrolled,
    EnrolmentUnderWay."""
    if vault.find(session, row.site_id, row.pid) is None:
        raise vault.LabelErased
    vault.store_under(session, keyring, row.site_id, row.pid, label)
    return audit.Event("vault:relabelled", "participant", row.pid, row.version, [], reason)


def _require_before_what_follows(row: Participant, merged: EnrolmentFields) -> None:
    """The day of enrolment cannot lie after a later status. Raises StatusOutOfOrder."""
    first = began(FOLLOWS_ENROLMENT, row)
    if first and merged.enrolled_on and merged.enrolled_on != row.enrolled_on and merged.enrolled_on > first:
        raise StatusOutOfOrder(Fault("/enrolled_on", "after_status", "Cannot lie after the day of a status after it"))


def _consent_to_correct(session: Session, row: Participant, correction: ConsentAmend) -> Consent | None:
    """The consent that is to be corrected; None if it says all this already. Raises EnrolmentContradictsProtocol,
    RecordVoided."""
    consent = session.get(Consent, (row.site_id, row.pid, correction.version, correction.number))
    if consent is None:
        field = "version" if correction.number == 1 else "number"
        fault = Fault(f"/consent/{field}", "unknown_consent", "The participant gave no such consent")
        raise EnrolmentContradictsProtocol(fault)
    require_not_voided(consent)
    differs = any(getattr(consent, name) != value for name, value in _corrected_columns(correction).items())
    return consent if differs else None


def _corrected_columns(correction: ConsentAmend) -> dict[str, Any]:
    """The columns of a consent that a correction names, with what they should say."""
    day = {"given_on": correction.given_on} if correction.given_on else {}
    return day | (consents.ticked(correction.scopes) if correction.scopes else {})


def _corrected_consent(
    session: Session, person: Person, consent: Consent, correction: ConsentAmend, reason: str
) -> audit.Event:
    """Correct the day and the scopes of a consent. It cannot be moved behind a withdrawal of it, as one of the two days
    must then be wrong. Raises WithdrawalBeforeConsent, EnrolmentContradictsProtocol."""
    if correction.scopes:
        faults = consents.faults_of(person.protocol, consent.version, correction.scopes, "/consent")
        if faults:
            raise EnrolmentContradictsProtocol(*faults)
    before, old = audit.snapshot(consent), consent_history.history_of(session, person)
    for name, value in _corrected_columns(correction).items():
        setattr(consent, name, value)
    session.flush()
    sharing.notify_if_ended(session, person, old)
    new = consent_history.history_of(session, person)
    for day in (one.effective_on for one in old.withdrawals if one.scope != WithdrawalScope.identity):
        if old.newest(day) is not None:
            new.require_given(day, "/consent/given_on")
    subject = consent_name(person.pid, consent.version, consent.number)
    return audit.changed("consent:amended", consent, subject, person.row.version, before, reason)


_DATED_BY = {
    ParticipantStatus.screened: "screened_on",
    ParticipantStatus.screen_failed: "screened_on",
    ParticipantStatus.enrolled: "enrolled_on",
}
"""The statuses whose first day is also a field of the participant."""
