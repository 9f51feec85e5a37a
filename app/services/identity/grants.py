"""Role grants: given, revoked, listed; with the rules on which roles an account may have together."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from uuid import UUID

from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, found
from app.errors import Conflict, Fault, Invalid
from app.models.account import (
    CUSTODIAN_EXCLUDES,
    Account,
    AccountKind,
    GrantCreate,
    GrantRead,
    Role,
    RoleGrant,
)
from app.models.base import now
from app.models.study import Site, Study
from app.services.identity.revoking import end_access_tokens, hold_account
from app.services.trail.registry_chain import remember

SITE_ROLES = frozenset({Role.investigator, Role.site_staff, Role.monitor})
CLIENT_ROLES = frozenset({Role.site_staff, Role.monitor})
"""The roles of site apps. No role that signs: a signature is a person's (21 CFR 11.100(a))."""

AT_NAMED_SITES = frozenset({Role.investigator, Role.site_staff})


class AccountDisabled(Conflict):
    """The account is disabled. Enable it before you give it a grant."""


class ClientRoleWrong(Invalid):
    """A site app can only be site_staff or monitor; the other roles are for people."""


class CustodianSeparate(Conflict):
    """Nobody can be custodian together with analyst or admin: who approves extracts must not ask for them or run the
    registry."""


class GrantScopeWrong(Invalid):
    """This role cannot be given for this study or these sites; see errors."""


class LastAdmin(Conflict):
    """This would leave the registry without an admin who can sign in; make another one first."""


def grant(session: Session, actor: Actor | None, account: Account, body: GrantCreate) -> None:
    """Give a role. Raises GrantScopeWrong, ClientRoleWrong, CustodianSeparate, AccountDisabled, and NotFound for a
    study or site that is not there."""
    _require_scope(body)
    if account.kind == AccountKind.client and body.role not in CLIENT_ROLES:
        raise ClientRoleWrong(Fault("/role", "client_role", "A site app is site_staff or monitor"))
    hold_account(session, account.id)  # so that two grants at once see each other
    if account.disabled_at is not None:
        raise AccountDisabled
    in_force = _in_force(session, account)
    _require_separation({body.role, *(Role(role) for role, _, _ in in_force)})
    new = [
        RoleGrant(
            account_id=account.id,
            role=body.role,
            study_id=study_id,
            site_id=site_id,
            granted_by=actor.account_id if actor else None,
        )
        for study_id, site_id in _places(session, body)
        if (body.role, study_id, site_id) not in in_force
    ]
    if not new:
        return
    session.add_all(new)
    end_access_tokens(session, account)
    remember(session, actor, *(audit.created("grant:given", row, row.id, reason=body.reason) for row in new))


def _in_force(session: Session, account: Account) -> set[tuple[str, int | None, int | None]]:
    """The grants in force, as role, study and site."""
    wanted = select(RoleGrant.role, RoleGrant.study_id, RoleGrant.site_id)
    in_force = wanted.where(RoleGrant.account_id == account.id, col(RoleGrant.revoked_at).is_(None))
    return {(role, study_id, site_id) for role, study_id, site_id in session.exec(in_force).all()}


def _require_scope(body: GrantCreate) -> None:
    if (body.study is None) != (body.role is Role.admin):
        raise GrantScopeWrong(Fault("/study", "study_by_role", "admin has no study; every other role needs one"))
    if body.sites is not None and (body.role not in SITE_ROLES or not body.sites):
        raise GrantScopeWrong(
            Fault("/sites", "sites_by_role", "Only investigator, site_staff and monitor are granted at sites")
        )
    if body.role in AT_NAMED_SITES and body.sites is None:
        raise GrantScopeWrong(Fault("/sites", "sites_required", "This role is granted at named sites"))


def _require_separation(roles: Collection[Role]) -> None:
    if Role.custodian in roles and not CUSTODIAN_EXCLUDES.isdisjoint(roles):
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


def revoke(session: Session, actor: Actor | None, account: Account, grant_id: UUID, reason: str) -> None:
    """Revoke a grant. Raises NotFound (also if it was revoked before), LastAdmin."""
    admins = serving_admins(session)
    hold_account(session, account.id)
    in_force = select(RoleGrant).where(
        RoleGrant.id == grant_id, RoleGrant.account_id == account.id, col(RoleGrant.revoked_at).is_(None)
    )
    row = found(session.exec(in_force).first())
    require_admin_without(admins, grant_id=row.id)
    before = audit.snapshot(row)
    row.revoked_at = now()
    end_access_tokens(session, account)
    remember(session, actor, audit.changed("grant:revoked", row, row.id, 2, before, reason))


def serving_admins(session: Session) -> set[tuple[UUID, UUID]]:
    """Grant and account of every admin who is not disabled, locked until the commit. Call it before any other lock.

    If two admins remove each other at once, the second one waits here and then sees one admin less. SQLite has only one
    writer and needs no lock.
    """
    statement = (
        select(RoleGrant.id, Account.id)
        .join(Account, col(Account.id) == col(RoleGrant.account_id))
        .where(RoleGrant.role == Role.admin, col(RoleGrant.revoked_at).is_(None), col(Account.disabled_at).is_(None))
        .order_by(col(Account.id), col(RoleGrant.id))
        .with_for_update(key_share=True)
    )
    return {(grant_id, account_id) for grant_id, account_id in session.exec(statement).all()}


def require_admin_without(
    admins: Collection[tuple[UUID, UUID]], grant_id: UUID | None = None, account_id: UUID | None = None
) -> None:
    """Raises LastAdmin if there is an admin now, and none would be left without this grant or account."""
    left = [pair for pair in admins if pair[0] != grant_id and pair[1] != account_id]
    if admins and not left:
        raise LastAdmin


def grants_of(session: Session, account_ids: Collection[UUID]) -> Mapping[UUID, list[GrantRead]]:
    """The grants in force of each account, oldest first."""
    statement = (
        select(RoleGrant, Study.code, Site.code)
        .outerjoin(Study, col(Study.id) == col(RoleGrant.study_id))
        .outerjoin(Site, col(Site.id) == col(RoleGrant.site_id))
        .where(col(RoleGrant.account_id).in_(account_ids), col(RoleGrant.revoked_at).is_(None))
        .order_by(col(RoleGrant.granted_at), col(RoleGrant.id))
    )
    grants: dict[UUID, list[GrantRead]] = defaultdict(list)
    for row, study, site in session.exec(statement).all():
        read = GrantRead(id=row.id, role=Role(row.role), study=study, site=site, granted_at=row.granted_at)
        grants[row.account_id].append(read)
    return grants
