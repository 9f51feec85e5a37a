"""Voiding withdrawals of consent that a site recorded in error. A withdrawal is the participant's own act (GDPR,
article 7(3)); what is corrected is the site's record of it, which can still be read (ICH E6(R3), 4.2.4)."""

from sqlmodel import Session

from app import audit
from app.access import Actor, found
from app.errors import Conflict
from app.models.base import now
from app.models.consent import ConsentState, VoidingCreate, WithdrawalScope
from app.services import consents, dependent_findings, rule_queries
from app.services.participants import Hold, visible_person
from app.services.unlocked import require_unlocked


class WithdrawalVoided(Conflict):
    """This withdrawal was voided already."""


class IdentityErased(Conflict):
    """A withdrawal of the identity cannot be voided: the site's label was erased for good."""


def void(session: Session, actor: Actor, symbols: str, number: int, body: VoidingCreate) -> tuple[ConsentState, int]:
    """Void a withdrawal, with the findings on doses that came from it; also gives the site's key.

    Raises NotFound, IdentityErased, WithdrawalVoided.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    withdrawals = consents.withdrawals_of(session, person)
    row = found(next((one for one in withdrawals if one.number == number), None))
    if row.scope == WithdrawalScope.identity:
        raise IdentityErased
    if row.voided_at is not None:
        raise WithdrawalVoided
    require_unlocked(session, person.site_id, person.row.pid)
    before = audit.snapshot(row)
    row.voided_by, row.voided_at, row.voiding_reason = actor.account_id, now(), body.reason
    session.flush()
    event = audit.changed("consent:withdrawal-voided", row, f"{row.pid}/{row.number}", 2, before, body.reason)
    judged = dependent_findings.after_withdrawal(session, person)
    rule_queries.settle_all(session, row.site_id, *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [event, *judged.events])
    return consents.state(session, person), row.site_id
