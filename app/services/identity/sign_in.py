"""Signing in: people with a password and perhaps a second factor, site apps with a client secret; refreshing both."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, and_, or_, update
from sqlmodel import Session, col, select

from app.database import Database
from app.errors import Unauthenticated
from app.models.account import Account, AccountKind, ClientSecret, RefreshToken, RoleGrant
from app.models.base import now
from app.models.sign_in import SessionCreate, Totp
from app.security import totp
from app.security.jwt import TokenRefused
from app.security.keys import Keyring
from app.security.passwords import Passwords, new_refresh_token
from app.security.sealing import unseal
from app.security.tokens import Claims, TokenAuthority
from app.services.identity.revoking import end_session, end_token, hold_account, remember_own_act
from app.services.identity.throttle import Attempt, Throttle
from app.settings import Settings

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="registry"'}
USE_NOTED_EVERY = timedelta(minutes=1)


class CredentialsWrong(Unauthenticated):
    """The name or the password is wrong."""


class TotpNeeded(Unauthenticated):
    """This account has a second factor: send its six digits as totp."""


class TotpWrong(Unauthenticated):
    """The six digits are wrong, too old, or were used already."""


class TokenOfAnother(Exception):
    """Somebody else tried to revoke a site app's token, or a site app a person's."""


@dataclass(frozen=True)
class KnownClient:
    """A site app with valid credentials, the secret that it used, and its `Attempt`."""

    account_id: UUID
    secret_id: UUID
    attempt: Attempt


@dataclass(frozen=True)
class SignIn:
    """Signing in, with what it needs of the application."""

    settings: Settings
    database: Database
    keyring: Keyring
    tokens: TokenAuthority
    passwords: Passwords
    throttle: Throttle

    def open_session(self, session: Session, body: SessionCreate, address: str) -> tuple[str, str]:
        """Access and refresh token for a person.

        Raises TooManyAttempts, CredentialsWrong (the same for every cause), TotpNeeded, TotpWrong. Hashes before it
        takes a connection, and then opens the session only if account and password have not changed meanwhile.
        """
        attempt = self.throttle.attempt(body.username, address)
        attempt.require_free()
        who = (Account.login == body.username, Account.kind == AccountKind.user)
        with self.database.read() as reading:
            known = reading.exec(
                select(Account, Totp).outerjoin(Totp, col(Totp.account_id) == col(Account.id)).where(*who)
            ).first()
        account, factor = known or (None, None)
        stored = account.password_hash if account else None
        fits = self.passwords.check(stored, body.password, body.username)
        if account is None or stored is None or not fits or account.disabled_at is not None:
            attempt.failed("session", account.id if account else None)
            raise CredentialsWrong(headers=CHALLENGE)
        step = self.second_factor(attempt, factor, body.totp, "session")
        renewed = self.passwords.hash(body.password, body.username) if self.passwords.outdated(stored) else stored
        account = proven(session, attempt, account.id, stored, step)
        account.password_hash = renewed
        family = uuid4()
        end = now() + timedelta(seconds=self.settings.refresh_token_seconds)
        pair = self._access(session, account, family), self._refresh(session, account, family, end)
        remember_own_act(session, account, "session:opened")
        return pair

    def second_factor(self, attempt: Attempt, factor: Totp | None, given: str | None, what: str) -> int | None:
        """The time step of the code that an account with a confirmed second factor has to give; None for any other.

        Raises TotpNeeded, TotpWrong.
        """
        if factor is None or factor.confirmed_at is None:
            return None
        if given is None:
            attempt.half_proven(what, factor.account_id)
            raise TotpNeeded(headers=CHALLENGE)
        return self.step(attempt, factor, given, what)

    def step(self, attempt: Attempt, factor: Totp, given: str, what: str) -> int:
        """The time step of a code. Raises TotpWrong, remembered as `<what>:refused`."""
        secret = unseal(self.keyring.derived("totp"), factor.sealed, factor.account_id.bytes)
        step = totp.matching_step(secret, given, time.time(), factor.last_step)
        if step is None:
            attempt.failed(what, factor.account_id)
            raise TotpWrong(headers=CHALLENGE)
        return step

    def own_account(
        self, account_id: UUID, password: str, address: str, what: str = "password"
    ) -> tuple[Account, Attempt]:
        """The account of a signed-in person who gives the password once more, and the `Attempt`.

        Raises TooManyAttempts or CredentialsWrong. Call `succeeded` of the attempt in the request's transaction.
        """
        with self.database.read() as reading:
            account = reading.get_one(Account, account_id)
        attempt = self.throttle.attempt(account.login, address)
        attempt.require_free()
        if not self.passwords.check(account.password_hash, password, account.login):
            attempt.failed(what, account.id)
            raise CredentialsWrong(headers=CHALLENGE)
        return account, attempt

    def client(self, client_id: str, secret: str, address: str) -> KnownClient | None:
        """The site app with these credentials; None when they do not fit, are revoked, expired, or it is disabled.

        Raises TooManyAttempts.
        """
        attempt = self.throttle.attempt(client_id, address)
        attempt.require_free()
        digest = self.keyring.digest("secret-digest", secret.encode())
        fits = and_(
            col(ClientSecret.account_id) == col(Account.id),
            col(ClientSecret.digest) == digest,
            _in_force(),
        )
        who = (Account.login == client_id, Account.kind == AccountKind.client)
        with self.database.read() as reading:
            known = reading.exec(select(Account, ClientSecret).outerjoin(ClientSecret, fits).where(*who)).first()
        account, fitting = known or (None, None)
        if account is None or fitting is None or account.disabled_at is not None:
            attempt.failed("token", account.id if account else None)
            return None
        return KnownClient(account.id, fitting.id, attempt)

    def client_token(self, session: Session, client: KnownClient) -> str | None:
        """Access token for a site app, unless it was disabled or its secret ended since. It has no session: it ends by
        its own id."""
        client.attempt.succeeded(session)
        account = hold_account(session, client.account_id)
        secret = session.exec(select(ClientSecret).where(ClientSecret.id == client.secret_id, _in_force())).first()
        if secret is None or account.disabled_at is not None:
            return None
        if secret.last_used_at is None or secret.last_used_at < now() - USE_NOTED_EVERY:
            secret.last_used_at = now()
            session.flush()
        token = self._access(session, account, None)
        remember_own_act(session, account, "token:issued")
        return token

    def revoke(self, session: Session, token: str, client: KnownClient | None) -> None:
        """End what a token belongs to; an unknown token is no error (RFC 7009, section 2.2). Raises TokenOfAnother."""
        if client:
            client.attempt.succeeded(session)
        row = self._refresh_row(session, token)
        claims = None if row else self._claims(token)
        family: UUID | None
        if row is not None:
            owner, family = row.account_id, row.family
        elif claims is not None:
            owner, family = claims.subject, claims.session
        else:
            return
        account = hold_account(session, owner)
        if (client.account_id if client else None) != (owner if account.kind == AccountKind.client else None):
            raise TokenOfAnother
        if family is not None:
            if end_session(session, self.settings, owner, family):
                remember_own_act(session, account, "session:closed")
        elif claims is not None and end_token(session, claims):
            remember_own_act(session, account, "token:revoked")

    def _claims(self, token: str) -> Claims | None:
        try:
            return self.tokens.verify(token)
        except TokenRefused:
            return None

    def refresh(self, session: Session, refresh_token: str) -> tuple[str, str] | None:
        """A new pair for an unspent refresh token, whose session still ends when it was to end. A spent one ends it at
        once and gives None."""
        row = self._refresh_row(session, refresh_token)
        if row is None or row.revoked_at is not None or row.expires_at <= now():
            return None
        account = session.get_one(Account, row.account_id)
        if row.used_at is not None:
            end_session(session, self.settings, account.id, row.family)
            remember_own_act(session, account, "token:reuse-detected")
            return None
        if account.disabled_at is not None:
            return None
        row.used_at = now()
        pair = (
            self._access(session, account, row.family),
            self._refresh(session, account, row.family, row.expires_at),
        )
        remember_own_act(session, account, "token:refreshed")
        return pair

    def _refresh_row(self, session: Session, token: str) -> RefreshToken | None:
        """The row of a refresh token, read after its account was locked."""
        this = RefreshToken.digest == self.keyring.digest("secret-digest", token.encode())
        owner = session.exec(select(RefreshToken.account_id).where(this)).first()
        if owner is None:
            return None
        hold_account(session, owner)
        return session.exec(select(RefreshToken).where(this)).first()

    def _access(self, session: Session, account: Account, family: UUID | None) -> str:
        roles = session.exec(
            select(RoleGrant.role).where(RoleGrant.account_id == account.id, col(RoleGrant.revoked_at).is_(None))
        ).all()
        return self.tokens.issue(account.id, account.login, set(roles), account.grants_version, family)

    def _refresh(self, session: Session, account: Account, family: UUID, end: datetime) -> str:
        token = new_refresh_token()
        session.add(
            RefreshToken(
                digest=self.keyring.digest("secret-digest", token.encode()),
                account_id=account.id,
                family=family,
                expires_at=end,
            )
        )
        session.flush()
        return token


def _in_force() -> ColumnElement[bool]:
    """Whether a site app's secret is neither revoked nor expired."""
    endless = col(ClientSecret.expires_at).is_(None)
    return and_(col(ClientSecret.revoked_at).is_(None), or_(endless, col(ClientSecret.expires_at) > now()))


def use_step(session: Session, account_id: UUID, step: int) -> None:
    """Spend the code of a time step. Raises TotpWrong if a parallel request spent it, or a later one."""
    unspent = or_(col(Totp.last_step).is_(None), col(Totp.last_step) < step)
    statement = update(Totp).where(col(Totp.account_id) == account_id, unspent).values(last_step=step)
    spent = session.execute(statement.returning(col(Totp.account_id))).first()
    if spent is None:
        raise TotpWrong(headers=CHALLENGE)


def proven(session: Session, attempt: Attempt, account_id: UUID, stored: str, step: int | None) -> Account:
    """Lock and give the account after a valid password and code, and mark the code as used. Raises TooManyAttempts,
    CredentialsWrong or TotpWrong if something has changed since."""
    attempt.succeeded(session)
    account = _unchanged(session, account_id, stored)
    if step is not None:
        use_step(session, account.id, step)
    return account


def _unchanged(session: Session, account_id: UUID, stored: str) -> Account:
    """Lock and give the account if it still has this password and is not disabled. Raises CredentialsWrong."""
    account = hold_account(session, account_id)
    if account.password_hash != stored or account.disabled_at is not None:
        raise CredentialsWrong(headers=CHALLENGE)
    return account
