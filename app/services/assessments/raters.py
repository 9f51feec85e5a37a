"""Independent raters: where the protocol wants them, nobody both rates and treats the same participant.

Raters and therapists are read from the database and from the unstored records of the same request.
"""

import json
from collections.abc import Collection

from sqlmodel import Session, col, select

from app.errors import Conflict, Fault
from app.models.dosing_session import DosingSession
from app.models.outcome import Outcome
from app.models.therapy_session import TherapySession
from app.models.visit import Visit
from app.models.voided import counts
from app.services.participation.participant_facts import ParticipantFacts
from app.services.participation.participants import Person


class RaterNotIndependent(Conflict):
    """The protocol wants this rated by somebody who does not treat the participant."""


class TherapistIsRater(Conflict):
    """One of these therapists has rated the participant, and the protocol wants raters who do not treat."""


def require_independent(
    session: Session, person: Person | ParticipantFacts, instrument: str, rater: str | None, pointer: str
) -> None:
    """Raises RaterNotIndependent. Call it with the participant's row locked, so that no session with this therapist is
    stored meanwhile."""
    rule = person.protocol.rater_independence
    if rater is None or rule is None:
        return
    if rule.broken_by(instrument, rater, therapists(session, person)):
        raise RaterNotIndependent(Fault(f"{pointer}/rater", rule.code, "Treats this participant"))


def require_not_raters(
    session: Session, person: Person | ParticipantFacts, staff: Collection[str], pointer: str
) -> None:
    """Raises TherapistIsRater. Call it with the participant's row locked for change."""
    rule = person.protocol.rater_independence
    if rule is None:
        return
    stored = select(Outcome.id).where(
        Outcome.site_id == person.site_id,
        Outcome.pid == person.pid,
        counts(Outcome),
        col(Outcome.instrument).in_(sorted(rule.covers)),
        col(Outcome.rater).in_(staff),
    )
    unstored = person.new_ratings if isinstance(person, ParticipantFacts) else ()
    if any(rule.broken_by(*rating, staff) for rating in unstored) or session.exec(stored).first() is not None:
        raise TherapistIsRater(Fault(pointer, rule.code, f"Rated {', '.join(rule.instruments)} of this participant"))


def therapists(session: Session, person: Person | ParticipantFacts) -> frozenset[str]:
    """The staff of the participant's dosing and therapy sessions."""
    site_id, pid = person.site_id, person.pid
    theirs = DosingSession.site_id == site_id, DosingSession.pid == pid, counts(DosingSession)
    dosing = select(DosingSession.staff).where(*theirs)
    of_visit = (col(Visit.site_id) == col(TherapySession.site_id)) & (col(Visit.id) == col(TherapySession.visit_id))
    therapy = select(TherapySession.staff).join(Visit, of_visit)
    therapy = therapy.where(TherapySession.site_id == site_id, TherapySession.pid == pid, counts(Visit))
    stored = [*session.exec(dosing), *session.exec(therapy)]
    unstored = person.new_therapists if isinstance(person, ParticipantFacts) else ()
    return frozenset(code for text in stored for code in json.loads(text)).union(unstored)
