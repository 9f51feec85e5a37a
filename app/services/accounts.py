"""Accounts of people and site apps, their secrets and grants."""

from uuid import UUID

from sqlalchemy import update
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, found, visible
from app.database import unique_or
from app.errors import Conflict, Fault, Invalid
from app.models.account import (
    CUSTODIAN_EXCLUDES,
    Account,
    AccountKind,
    AccountRead,
    ClientCreate,
    ClientSecret,
    GrantCreate,
    GrantRead,
    Role,
    RoleGrant,
    UserCreate,
)
from app.models.audit import REGISTRY_CHAIN
from app.models.study import Site, Study
from app.security.keys import Keyring
from app.security.passwords import Passwords, new_client_secret, require_strong

SITE_ROLES = frozenset({Role.site_staff, Role.monitor})


class LoginTaken(Conflict):
    """There is an account with this name already."""


class CustodianSeparate(Conflict):
    """Nobody holds custodian together with analyst or admin: who approves a release neither asks for it nor runs it."""


class GrantScopeWrong(Invalid):
    """The role and the place do not fit; see errors."""


def create_user(session: Session, actor: Actor | None, passwords: Passwords, body: UserCreate) -> Account:
    """A person's account, without any grant. `actor` None is the command line of the deployment."""
    require_strong(body.password, body.username, "/password")
    account = Account(
        kind=AccountKind.user,
        login=body.username,
        display_name=body.display_name,
        organisation=body.organisation,
        password_hash=passwords.hash(body.password),
    )
    return _store(session, actor, account, "account:created")


def create_client(session: Session, actor: Actor | None, keyring: Keyring, body: ClientCreate) -> tuple[Account, str]:
    """A site app's account and its secret, which is never shown again."""
    account = Account(kind=AccountKind.client, login="", display_name=body.name, organisation=body.organisation)
    account.login = f"client-{account.id}"
    secret = new_client_secret()
    _store(session, actor, account, "account:created")
    session.add(ClientSecret(account_id=account.id, digest=keyring.digest("secret-digest", secret.encode())))
    session.flush()
    return account, secret


def _store(session: Session, actor: Actor | None, account: Account, action: str) -> Account:
    session.add(account)
    with unique_or(LoginTaken):
        session.flush()
    _remember(session, actor, audit.created(action, account, account.id))
    return account


def grant(session: Session, actor: Actor | None, account: Account, body: GrantCreate) -> None:
    """Give a role. Raises GrantScopeWrong, CustodianSeparate, NotFound for a study or site that is not there."""
    _require_scope(body)
    _require_separation(session, account, body.role)
    held = _held(session, account)
    for study_id, site_id in _places(session, body):
        if (body.role, study_id, site_id) in held:
            continue
        row = RoleGrant(
            account_id=account.id,
            role=body.role,
            study_id=study_id,
            site_id=site_id,
            granted_by=actor.account_id if actor else None,
        )
        session.add(row)
        session.flush()
        _remember(session, actor, audit.created("grant:given", row, row.id))
    raised = col(Account.grants_version) + 1
    session.execute(update(Account).where(col(Account.id) == account.id).values(grants_version=raised))


def _held(session: Session, account: Account) -> set[tuple[str, int | None, int | None]]:
    """The grants in force; giving one again changes nothing."""
    wanted = select(RoleGrant.role, RoleGrant.study_id, RoleGrant.site_id)
    in_force = wanted.where(RoleGrant.account_id == account.id, col(RoleGrant.revoked_at).is_(None))
    return {(role, study_id, site_id) for role, study_id, site_id in session.exec(in_force).all()}


def _require_scope(body: GrantCreate) -> None:
    if (body.study is None) != (body.role is Role.admin):
        raise GrantScopeWrong(Fault("/study", "study_by_role", "admin has no study; every other role needs one"))
    if body.sites is not None and (body.role not in SITE_ROLES or not body.sites):
        raise GrantScopeWrong(Fault("/sites", "sites_by_role", "Only site_staff and monitor are granted at sites"))
    if body.role is Role.site_staff and body.sites is None:
        raise GrantScopeWrong(Fault("/sites", "sites_required", "site_staff is granted at named sites"))


def _require_separation(session: Session, account: Account, role: Role) -> None:
    held = session.exec(
        select(RoleGrant.role).where(RoleGrant.account_id == account.id, col(RoleGrant.revoked_at).is_(None))
    ).all()
    roles = {Role(value) for value in held} | {role}
    if Role.custodian in roles and roles & CUSTODIAN_EXCLUDES:
        raise CustodianSeparate


def _places(session: Session, body: GrantCreate) -> list[tuple[int | None, int | None]]:
    if body.study is None:
        return [(None, None)]
    study_id = found(session.exec(select(Study.id).where(Study.code == body.study)).first())
    if body.sites is None:
        return [(study_id, None)]
    chosen = select(Site.code, Site.id).where(Site.study_id == study_id, col(Site.code).in_(body.sites))
    ids = dict(session.exec(chosen).all())
    return [(study_id, found(ids.get(code))) for code in dict.fromkeys(body.sites)]


def _remember(session: Session, actor: Actor | None, event: audit.Event) -> None:
    audit.append(session, str(actor.account_id) if actor else audit.SYSTEM, REGISTRY_CHAIN, [event])


def account_by_id(session: Session, actor: Actor, kind: AccountKind, account_id: UUID) -> Account:
    statement = visible(select(Account).where(Account.id == account_id, Account.kind == kind), actor)
    return found(session.exec(statement).first())


def client_by_login(session: Session, actor: Actor, login: str) -> Account:
    statement = visible(select(Account).where(Account.login == login, Account.kind == AccountKind.client), actor)
    return found(session.exec(statement).first())


def account_read(session: Session, account: Account) -> AccountRead:
    """An account as it is shown, with its grants."""
    return AccountRead(
        id=account.id,
        kind=AccountKind(account.kind),
        login=account.login,
        display_name=account.display_name,
        organisation=account.organisation,
        disabled=account.disabled_at is not None,
        grants=grants_of(session, account.id),
    )


def grants_of(session: Session, account_id: UUID) -> list[GrantRead]:
    """The grants in force, oldest first."""
    statement = (
        select(RoleGrant, Study.code, Site.code)
        .outerjoin(Study, col(Study.id) == col(RoleGrant.study_id))
        .outerjoin(Site, col(Site.id) == col(RoleGrant.site_id))
        .where(RoleGrant.account_id == account_id, col(RoleGrant.revoked_at).is_(None))
        .order_by(col(RoleGrant.granted_at), col(RoleGrant.id))
    )
    return [
        GrantRead(role=Role(row.role), study=study, site=site, granted_at=row.granted_at)
        for row, study, site in session.exec(statement).all()
    ]
