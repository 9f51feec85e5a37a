"""Signing in: people with a password, site apps with a client secret, both with refresh tokens afterwards."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from app import audit
from app.errors import Unauthenticated
from app.models.account import Account, AccountKind, ClientSecret, RefreshToken, RoleGrant
from app.models.audit import REGISTRY_CHAIN
from app.models.base import now
from app.security.keys import Keyring
from app.security.passwords import Passwords, new_refresh_token
from app.security.tokens import TokenAuthority
from app.settings import Settings


class CredentialsWrong(Unauthenticated):
    """The name and the password do not fit."""


@dataclass(frozen=True)
class SignIn:
    """What signing in needs of the application."""

    settings: Settings
    keyring: Keyring
    tokens: TokenAuthority
    passwords: Passwords

    def person(self, session: Session, username: str, password: str) -> tuple[str, str]:
        """Access and refresh token for a person. Raises CredentialsWrong, the same for every cause."""
        account = session.exec(
            select(Account).where(Account.login == username, Account.kind == AccountKind.user)
        ).first()
        fits = self.passwords.check(account.password_hash if account else None, password)
        if account is None or not fits or account.disabled_at is not None:
            raise CredentialsWrong(headers={"WWW-Authenticate": 'Bearer realm="registry"'})
        _remember(session, account, "session:opened")
        return self._access(session, account), self._refresh(session, account, uuid4())

    def client(self, session: Session, client_id: str, secret: str) -> str | None:
        """Access token for a site app, None when id and secret do not fit."""
        digest = self.keyring.digest("secret-digest", secret.encode())
        account = session.exec(
            select(Account)
            .join(ClientSecret, col(ClientSecret.account_id) == col(Account.id))
            .where(
                Account.login == client_id,
                Account.kind == AccountKind.client,
                ClientSecret.digest == digest,
                col(ClientSecret.revoked_at).is_(None),
                or_(col(ClientSecret.expires_at).is_(None), col(ClientSecret.expires_at) > now()),
                col(Account.disabled_at).is_(None),
            )
        ).first()
        if account is None:
            return None
        _remember(session, account, "token:issued")
        return self._access(session, account)

    def again(self, session: Session, refresh_token: str) -> tuple[str, str] | None:
        """A new pair for an unspent refresh token. A spent one revokes its whole family and gives None."""
        row = self._refresh_row(session, refresh_token)
        if row is None or row.revoked_at is not None or row.expires_at <= now():
            return None
        account = session.exec(select(Account).where(Account.id == row.account_id)).one()
        if row.used_at is not None:
            self._revoke_family(session, row.family)
            _remember(session, account, "token:reuse-detected")
            return None
        if account.disabled_at is not None:
            return None
        row.used_at = now()
        _remember(session, account, "token:refreshed")
        return self._access(session, account), self._refresh(session, account, row.family)

    def revoke(self, session: Session, refresh_token: str) -> None:
        """Revoke a refresh token and its family; an unknown token is no error (RFC 7009, section 2.2)."""
        row = self._refresh_row(session, refresh_token)
        if row is not None and row.revoked_at is None:
            account = session.exec(select(Account).where(Account.id == row.account_id)).one()
            self._revoke_family(session, row.family)
            _remember(session, account, "session:closed")

    def _refresh_row(self, session: Session, token: str) -> RefreshToken | None:
        digest = self.keyring.digest("secret-digest", token.encode())
        statement = select(RefreshToken).where(RefreshToken.digest == digest).with_for_update()
        return session.exec(statement).first()

    def _revoke_family(self, session: Session, family: UUID) -> None:
        session.execute(update(RefreshToken).where(col(RefreshToken.family) == family).values(revoked_at=now()))

    def _access(self, session: Session, account: Account) -> str:
        roles = session.exec(
            select(RoleGrant.role).where(RoleGrant.account_id == account.id, col(RoleGrant.revoked_at).is_(None))
        ).all()
        return self.tokens.issue(account.id, account.login, set(roles), account.grants_version)

    def _refresh(self, session: Session, account: Account, family: UUID) -> str:
        token = new_refresh_token()
        session.add(
            RefreshToken(
                digest=self.keyring.digest("secret-digest", token.encode()),
                account_id=account.id,
                family=family,
                expires_at=now() + timedelta(seconds=self.settings.refresh_token_seconds),
            )
        )
        session.flush()
        return token


def _remember(session: Session, account: Account, action: str) -> None:
    event = audit.Event(action, "account", str(account.id), account.grants_version, [])
    audit.append(session, str(account.id), REGISTRY_CHAIN, [event])
