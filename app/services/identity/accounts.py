"""Accounts of people and site apps: created, read, amended, disabled; their sessions revoked."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Rows, found, visible
from app.database import unique_or
from app.errors import Conflict
from app.models.account import (
    Account,
    AccountAmend,
    AccountFilter,
    AccountKind,
    AccountRead,
    ClientCreate,
    ClientSecret,
    IdentityLink,
    PasswordSet,
    RoleGrant,
    UserCreate,
)
from app.models.base import columns, now
from app.models.sign_in import Totp
from app.security.keys import Keyring
from app.security.passwords import Passwords, new_client_secret, require_strong
from app.services.identity.grants import grants_of, require_admin_without, serving_admins
from app.services.identity.revoking import end_sessions, hold_account
from app.services.trail.registry_chain import remember
from app.web.conditional import Seen, etag


class LoginTaken(Conflict):
    """There is an account with this name already."""


class IdentityTaken(Conflict):
    """Another account is linked to this person of the institution's sign-in service."""


class ProviderNotConfigured(Conflict):
    """This registry is not connected to an institution's sign-in service."""


def create_user(session: Session, actor: Actor | None, passwords: Passwords, body: UserCreate) -> Account:
    """Create a person's account, without any grant. `actor` is None on the command line."""
    require_strong(body.password, body.username, "/password")
    account = Account(
        kind=AccountKind.user,
        login=body.username,
        display_name=body.display_name,
        organisation=body.organisation,
        password_hash=passwords.hash(body.password),
        password_given_at=now(),
    )
    return _store(session, actor, account)


def create_client(session: Session, actor: Actor | None, keyring: Keyring, body: ClientCreate) -> tuple[Account, str]:
    """Create a site app's account; also gives its secret, which is never shown again."""
    account = Account(kind=AccountKind.client, login="", display_name=body.name, organisation=body.organisation)
    account.login = f"client-{account.id}"
    secret = new_client_secret()
    _store(session, actor, account)
    made = ClientSecret(account_id=account.id, digest=keyring.digest("secret-digest", secret.encode()))
    session.add(made)
    session.flush()
    remember(session, actor, audit.created("client-secret:made", made, made.id))
    return account, secret


def _store(session: Session, actor: Actor | None, account: Account) -> Account:
    session.add(account)
    with unique_or(LoginTaken):
        session.flush()
    remember(session, actor, audit.created("account:created", account, account.id))
    return account


def account_by_id(session: Session, actor: Actor, kind: AccountKind, account_id: UUID) -> Account:
    statement = visible(select(Account).where(Account.id == account_id, Account.kind == kind), actor)
    return found(session.exec(statement).first())


def client_by_login(session: Session, actor: Actor, login: str) -> Account:
    statement = visible(select(Account).where(Account.login == login, Account.kind == AccountKind.client), actor)
    return found(session.exec(statement).first())


def amend(
    session: Session, actor: Actor | None, account: Account, body: AccountAmend, seen: Seen | None = None
) -> None:
    """Rename, disable or enable. Disabling ends all sessions. Raises VersionStale, LastAdmin."""
    admins = serving_admins(session)
    hold_account(session, account.id)
    changes = body.model_dump(exclude={"reason", "disabled"}, exclude_none=True)
    if body.disabled is not None and body.disabled != (account.disabled_at is not None):
        changes["disabled_at"] = now() if body.disabled else None
    changes = {name: value for name, value in changes.items() if getattr(account, name) != value}
    if seen is not None:
        seen.require_current(_state(session, account), 0, changes)
    if not changes:
        return
    if changes.get("disabled_at"):
        require_admin_without(admins, account_id=account.id)
        end_sessions(session, account)
    before = audit.snapshot(account)
    for name, value in changes.items():
        setattr(account, name, value)
    session.flush()
    action = "account:amended"
    if "disabled_at" in changes:
        action = "account:disabled" if body.disabled else "account:enabled"
    event = audit.changed(action, account, account.id, account.grants_version, before, body.reason)
    remember(session, actor, event)


def set_password(
    session: Session, actor: Actor | None, passwords: Passwords, known: Account, body: PasswordSet
) -> Account:
    """Give a person a new password, and end all their sessions. Raises PasswordTooEasy.

    `known` was read in another session: the password is hashed, which takes long, before this session executes its
    first statement and so takes a connection, which on SQLite is the only writer.
    """
    require_strong(body.password, known.login, "/password")
    password_hash = passwords.hash(body.password)
    account = hold_account(session, known.id)
    end_sessions(session, account)
    before = audit.snapshot(account)
    account.password_hash, account.password_given_at = password_hash, now()
    session.flush()
    event = audit.changed("account:password-set", account, account.id, account.grants_version, before, body.reason)
    remember(session, actor, event)
    if body.second_factor_off:
        session.execute(sa.delete(Totp).where(col(Totp.account_id) == account.id))
        remember(session, actor, _event("totp:taken-off", account, body.reason))
    return account


def link_identity(session: Session, actor: Actor, account: Account, issuer: str | None, body: IdentityLink) -> None:
    """Link an account to a person of the institution's provider, or unlink it; tokens of an earlier link are no longer
    accepted.

    Raises ProviderNotConfigured, IdentityTaken.
    """
    if issuer is None:
        raise ProviderNotConfigured
    hold_account(session, account.id)
    before = audit.snapshot(account)
    account.oidc_subject = body.subject
    account.oidc_issuer = issuer if body.subject else None
    if audit.snapshot(account) == before:
        return
    with unique_or(IdentityTaken):
        session.flush()
    event = audit.changed(
        "account:identity-linked" if body.subject else "account:identity-unlinked",
        account,
        account.id,
        account.grants_version,
        before,
        body.reason,
    )
    remember(session, actor, event)


def revoke_sessions(session: Session, actor: Actor | None, account: Account, reason: str) -> None:
    """End all sessions of an account: refresh tokens at once, access tokens within `grants_cache_seconds`."""
    hold_account(session, account.id)
    end_sessions(session, account)
    remember(session, actor, _event("account:sessions-revoked", account, reason))


def _event(action: str, account: Account, reason: str) -> audit.Event:
    return audit.Event(action, "account", str(account.id), account.grants_version, [], reason)


def rows(kind: AccountKind, query: AccountFilter) -> Rows:
    """The accounts that a filter selects; narrow the statement with `visible`."""
    statement = sa.select(*columns(Account)).where(col(Account.kind) == kind)
    if query.disabled is not None:
        statement = statement.where(col(Account.disabled_at).is_not(None) == query.disabled)
    if query.role is not None:
        holding = sa.select(RoleGrant.account_id).where(  # type: ignore[call-overload]
            col(RoleGrant.role) == query.role, col(RoleGrant.revoked_at).is_(None)
        )
        statement = statement.where(col(Account.id).in_(holding))
    return statement


def read_all(session: Session, listed: Sequence[Account | sa.Row[tuple[object, ...]]]) -> list[AccountRead]:
    """Accounts as answers, with their grants."""
    grants = grants_of(session, [account.id for account in listed])
    return [
        AccountRead(
            id=account.id,
            kind=AccountKind(account.kind),
            login=account.login,
            display_name=account.display_name,
            organisation=account.organisation,
            disabled=account.disabled_at is not None,
            grants=grants[account.id],
        )
        for account in listed
    ]


def account_read(session: Session, account: Account) -> AccountRead:
    return read_all(session, [account])[0]


def account_etag(session: Session, keyring: Keyring, account: Account) -> str:
    """An ETag that changes with anything that the answer shows, grants included."""
    return etag(keyring, _state(session, account), 0)


def _state(session: Session, account: Account) -> str:
    return account_read(session, account).model_dump_json()
