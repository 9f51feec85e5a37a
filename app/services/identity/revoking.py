"""Ending sessions and tokens before their time (RFC 7009), so that access tokens stop working as well.

Ending all tokens would miss one that another transaction is just writing. So every transaction that issues, renews or
ends a credential of an account locks the account first (`hold_account`), and only then reads its secrets and tokens.
The order is always the same, so there is no deadlock.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from app import audit
from app.models.account import Account, RefreshToken
from app.models.audit import REGISTRY_CHAIN
from app.models.base import now, table_of, values
from app.models.sign_in import Revocation
from app.security.tokens import Claims
from app.settings import Settings
from app.writing import upsert


def hold_account(session: Session, account_id: UUID) -> Account:
    """The account as it is now, locked until the commit."""
    return session.get_one(Account, account_id, with_for_update={"key_share": True}, populate_existing=True)


def end_sessions(session: Session, account: Account) -> None:
    """Invalidate all tokens issued so far to an account that is locked."""
    of_account, live = col(RefreshToken.account_id) == account.id, col(RefreshToken.revoked_at).is_(None)
    session.execute(update(RefreshToken).where(of_account, live).values(revoked_at=now()))
    end_access_tokens(session, account)


def end_access_tokens(session: Session, account: Account) -> None:
    """Invalidate all access tokens of an account that is locked, by counting up the version that each of them carries.
    Sessions go on with their refresh tokens."""
    account.grants_version += 1
    session.flush()


def end_session(session: Session, settings: Settings, account_id: UUID, family: UUID) -> bool:
    """End a session of an account that is locked: its refresh tokens, and the access tokens with its id as `sid`. False
    if it had ended already."""
    session.execute(update(RefreshToken).where(col(RefreshToken.family) == family).values(revoked_at=now()))
    return _revoke(session, account_id, family, now() + timedelta(seconds=settings.access_token_seconds))


def end_other_sessions(session: Session, settings: Settings, account_id: UUID, kept: UUID | None) -> None:
    """End every session but one of an account that is locked."""
    still_felt = now() - timedelta(seconds=settings.access_token_seconds)
    families = select(RefreshToken.family).where(
        RefreshToken.account_id == account_id, RefreshToken.expires_at > still_felt, RefreshToken.family != kept
    )
    for family in sorted(set(session.exec(families).all())):
        end_session(session, settings, account_id, family)


def end_token(session: Session, claims: Claims) -> bool:
    """End one access token by its id: for site apps, which have no session. False if it had ended already."""
    return _revoke(session, claims.subject, claims.token_id, datetime.fromtimestamp(claims.expires_at, UTC))


def _revoke(session: Session, account_id: UUID, ended: UUID, expires_at: datetime) -> bool:
    past = select(Revocation.id).where(col(Revocation.expires_at) < now()).with_for_update(skip_locked=True)
    session.execute(delete(Revocation).where(col(Revocation.id).in_(past)))
    row = Revocation(id=ended, account_id=account_id, expires_at=expires_at)
    statement = upsert(session, table_of(Revocation)).values(values(row)).on_conflict_do_nothing()
    return session.execute(statement.returning(col(Revocation.id))).first() is not None


def remember_own_act(session: Session, account: Account, action: str) -> None:
    """Write an audit entry of what the account itself did, on the registry's chain. Call it last."""
    event = audit.Event(action, "account", str(account.id), account.grants_version, [])
    audit.append(session, account.id, REGISTRY_CHAIN, [event])
