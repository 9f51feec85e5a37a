"""People's own sign-in: changing the password, setting up a second factor."""

from dataclasses import dataclass

from sqlmodel import Session, select

from app import audit
from app.access import Actor
from app.errors import Conflict, Forbidden
from app.models.account import Account
from app.models.base import now
from app.models.sign_in import PasswordChange, Totp, TotpOffer
from app.security import totp
from app.security.passwords import require_strong
from app.security.sealing import seal
from app.services.identity.revoking import end_other_sessions, hold_account, remember_own_act
from app.services.identity.sign_in import CHALLENGE, CredentialsWrong, SignIn, use_step
from app.services.trail.registry_chain import remember


class TotpAlreadyOn(Conflict):
    """This account has a second factor already; an admin can take it off."""


class TotpNotOffered(Conflict):
    """There is no second factor to confirm; ask for a secret first."""


class PasswordNotOwn(Forbidden):
    """Somebody else set this password: change it first, by POST /v1/me/password."""


def require_own_password(account: Account) -> None:
    """Check that the person chose the password: somebody else who set it could act as this person, and so be both of
    two persons that are needed. A signature is used by its genuine owner only (21 CFR 11.200(a)(2) and (3)). Raises
    PasswordNotOwn."""
    if account.password_given_at is not None:
        raise PasswordNotOwn


def require_own_sign_in(session: Session, actor: Actor) -> None:
    """The same check for the actor. One with a token of the institution's provider has no session here, and passes, as
    the provider knows the person. Raises PasswordNotOwn."""
    if actor.session_id is not None:
        require_own_password(session.get_one(Account, actor.account_id))


@dataclass(frozen=True)
class OwnAccount:
    """The account of one signed-in person, at one client address."""

    sign_in: SignIn
    actor: Actor
    address: str

    def change_password(self, session: Session, body: PasswordChange) -> None:
        """Change the password and end all other sessions of the person. Raises TooManyAttempts, CredentialsWrong,
        PasswordTooEasy."""
        read_before, attempt = self.sign_in.own_account(self.actor.account_id, body.current, self.address)
        require_strong(body.new, read_before.login, "/new")
        password_hash = self.sign_in.passwords.hash(body.new, read_before.login)
        attempt.succeeded(session)
        account = hold_account(session, self.actor.account_id)
        if account.password_hash != read_before.password_hash:
            raise CredentialsWrong(headers=CHALLENGE)
        before = audit.snapshot(account)
        account.password_hash, account.password_given_at = password_hash, None
        session.flush()
        end_other_sessions(session, self.sign_in.settings, account.id, self.actor.session_id)
        event = audit.changed("password:changed", account, account.id, account.grants_version, before, None)
        remember(session, self.actor, event)

    def offer_totp(self, session: Session, password: str) -> TotpOffer:
        """Offer a new TOTP secret, which is not needed to sign in until it is confirmed. Raises TooManyAttempts,
        CredentialsWrong, TotpAlreadyOn."""
        _, attempt = self.sign_in.own_account(self.actor.account_id, password, self.address)
        attempt.succeeded(session)
        account = hold_account(session, self.actor.account_id)
        factor = session.get(Totp, account.id)
        if factor and factor.confirmed_at:
            raise TotpAlreadyOn
        secret = totp.new_secret()
        sealed = seal(self.sign_in.keyring.derived("totp"), secret, account.id.bytes)
        if factor is None:
            session.add(Totp(account_id=account.id, sealed=sealed))
        else:
            factor.sealed = sealed
        session.flush()
        remember_own_act(session, account, "totp:offered")
        uri = totp.otpauth_uri(secret, self.sign_in.settings.issuer, account.login)
        return TotpOffer(secret=totp.shown(secret), otpauth_uri=uri)

    def confirm_totp(self, session: Session, code: str) -> None:
        """Turn the second factor on. Raises TooManyAttempts, TotpNotOffered, TotpAlreadyOn, TotpWrong."""
        with self.sign_in.database.read() as reading:
            account = reading.get_one(Account, self.actor.account_id)
            factor = reading.get(Totp, account.id)
        if factor is None:
            raise TotpNotOffered
        if factor.confirmed_at:
            raise TotpAlreadyOn
        attempt = self.sign_in.throttle.attempt(account.login, self.address)
        attempt.require_free()
        step = self.sign_in.step(attempt, factor, code, "totp")
        attempt.succeeded(session)
        account = hold_account(session, self.actor.account_id)
        offered = session.exec(
            select(Totp).where(Totp.account_id == account.id, Totp.sealed == factor.sealed).with_for_update()
        ).first()
        if offered is None:
            raise TotpNotOffered
        use_step(session, account.id, step)
        offered.confirmed_at = now()
        session.flush()
        remember_own_act(session, account, "totp:confirmed")
