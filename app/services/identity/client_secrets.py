"""Secrets of site apps: at most two are valid at once, so that an app can change from one to the other."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, found
from app.errors import Conflict
from app.models.account import Account, ClientRead, ClientSecret, SecretCreate, SecretCreated, SecretRead
from app.models.base import now
from app.security.keys import Keyring
from app.security.passwords import new_client_secret
from app.services.identity.accounts import account_read
from app.services.identity.grants import AccountDisabled
from app.services.identity.revoking import end_sessions, hold_account
from app.services.trail.registry_chain import remember


class TwoSecretsValid(Conflict):
    """Two secrets of this client are valid already; revoke one first."""


def rotate(
    session: Session, actor: Actor | None, keyring: Keyring, account: Account, body: SecretCreate
) -> SecretCreated:
    """Make a new secret; the older one expires after the overlap. Raises TwoSecretsValid, AccountDisabled."""
    hold_account(session, account.id)
    if account.disabled_at is not None:
        raise AccountDisabled
    at = now()
    valid = [row for row in _secrets(session, account) if _is_valid(row, at)]
    if len(valid) > 1:
        raise TwoSecretsValid
    older_ends = at + timedelta(hours=body.overlap_hours)
    events = [_limited(row, older_ends, body.reason) for row in valid]
    secret = new_client_secret()
    made = ClientSecret(
        account_id=account.id,
        digest=keyring.digest("secret-digest", secret.encode()),
        created_at=at,
        expires_at=at + timedelta(days=body.expires_in_days) if body.expires_in_days else None,
    )
    session.add(made)
    session.flush()
    remember(session, actor, *events, audit.created("client-secret:made", made, made.id, reason=body.reason))
    return SecretCreated(**read(made).model_dump(), client_id=account.login, client_secret=secret)


def _limited(row: ClientSecret, ends: datetime, reason: str) -> audit.Event:
    before = audit.snapshot(row)
    row.expires_at = min(row.expires_at or ends, ends)
    return audit.changed("client-secret:limited", row, row.id, 2, before, reason)


def revoke(session: Session, actor: Actor | None, account: Account, secret_id: UUID, reason: str) -> None:
    """Revoke a secret and all tokens of the client, as somebody who stole the secret may have one. Raises NotFound."""
    hold_account(session, account.id)
    row = found(next((row for row in _secrets(session, account) if row.id == secret_id and not row.revoked_at), None))
    before = audit.snapshot(row)
    row.revoked_at = now()
    session.flush()
    end_sessions(session, account)
    event = audit.changed("client-secret:revoked", row, row.id, 2, before, reason)
    remember(session, actor, event)


def client_read(session: Session, account: Account) -> ClientRead:
    """A site app with its secrets, oldest first, but not their text."""
    secrets = [read(row) for row in _secrets(session, account)]
    return ClientRead(**account_read(session, account).model_dump(), secrets=secrets)


def read(row: ClientSecret) -> SecretRead:
    return SecretRead(
        id=row.id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked=row.revoked_at is not None,
    )


def _secrets(session: Session, account: Account) -> list[ClientSecret]:
    statement = select(ClientSecret).where(ClientSecret.account_id == account.id)
    return list(session.exec(statement.order_by(col(ClientSecret.created_at), col(ClientSecret.id))).all())


def _is_valid(row: ClientSecret, at: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > at)
