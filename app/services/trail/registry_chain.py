"""The registry's own chain of the audit trail: what is done to accounts, keys, extracts and all that is no site's."""

from sqlmodel import Session

from app import audit
from app.access import Actor
from app.models.audit import REGISTRY_CHAIN


def remember(session: Session, actor: Actor | None, *events: audit.Event) -> None:
    """Call it last, as `audit.append`. `actor` None is the registry itself, or the command line of the deployment."""
    if events:
        audit.append(session, actor.account_id if actor else audit.SYSTEM, REGISTRY_CHAIN, events)
