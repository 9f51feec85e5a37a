"""Ending sessions and tokens before their time (RFC 7009), so that access tokens stop working as well."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from app import audit
from app.models.account import Account, RefreshToken
from app.models.audit import REGISTRY_CHAIN
from app.models.base import now
from app.models.sign_in import Revocation
from app.security.tokens import Claims
from app.settings import Settings


def end_session(session: Session, settings: Settings, account_id: UUID, family: UUID) -> bool:
    """End a person's session: its refresh tokens, and the access tokens that carry it as `sid`. False: it had ended."""
    session.execute(update(RefreshToken).where(col(RefreshToken.family) == family).values(revoked_at=now()))
    return _revoke(session, account_id, family, now() + timedelta(seconds=settings.access_token_seconds))


def end_other_sessions(session: Session, settings: Settings, account_id: UUID, kept: UUID | None) -> None:
    """End every session of an account but one."""
    still_felt = now() - timedelta(seconds=settings.access_token_seconds)
    families = select(RefreshToken.family).where(
        RefreshToken.account_id == account_id, RefreshToken.expires_at > still_felt, RefreshToken.family != kept
    )
    for family in sorted(set(session.exec(families).all())):
        end_session(session, settings, account_id, family)


def end_token(session: Session, claims: Claims) -> bool:
    """End one access token, by its id: for site apps, which have no session. False: it had ended."""
    return _revoke(session, claims.subject, claims.token_id, datetime.fromtimestamp(claims.expires_at, UTC))


def _revoke(session: Session, account_id: UUID, ended: UUID, expires_at: datetime) -> bool:
    past = select(Revocation.id).where(col(Revocation.expires_at) < now()).with_for_update(skip_locked=True)
    session.execute(delete(Revocation).where(col(Revocation.id).in_(past)))
    if session.get(Revocation, ended) is not None:
        return False
    session.add(Revocation(id=ended, account_id=account_id, expires_at=expires_at))
    session.flush()
    return True


def remember(session: Session, account: Account, action: str) -> None:
    """An audit entry of the account's own doing, on the registry's chain. Call it last."""
    event = audit.Event(action, "account", str(account.id), account.grants_version, [])
    audit.append(session, account.id, REGISTRY_CHAIN, [event])
