"""Who may do what (`requires`), and which rows exist for them (`visible`). The security core: keep it small.

The actor of a request has only the sites and studies where the permission required by the route was granted (its
reach). So a person who writes at one site and monitors another cannot write at the second one. Without a grant there is
no permission and no row. A row outside the reach does not exist for the actor: 404, never 403.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import ColumnElement, Select, Table, and_, bindparam, false, or_, select, true
from sqlmodel import Session, SQLModel, col

from app.database import Database
from app.errors import Fault, Forbidden, Malformed, NotFound, Unauthenticated
from app.models.account import Account, AccountKind, Role, RoleGrant
from app.models.adverse_event import AdverseEvent
from app.models.among import among
from app.models.audit import REGISTRY_CHAIN, AuditEntry
from app.models.base import table_of
from app.models.data_cut import DataCut
from app.models.data_lock import DataLock
from app.models.data_query import DataQuery, DataQueryMessage
from app.models.dosing_session import DosingSession
from app.models.extract import Extract
from app.models.label_disclosure import LabelDisclosure
from app.models.outcome import Outcome
from app.models.participant import Participant
from app.models.pid_reservation import PidReservation, ReservedPid
from app.models.safety_signal import SafetySignal
from app.models.sign_in import Revocation
from app.models.signature import Signature
from app.models.study import ProtocolVersion, Site, Study
from app.models.sync import SyncOperation
from app.models.verification import Verification
from app.models.visit import Visit
from app.permissions import CLINICAL_READS, GRANTS, Permission, granted
from app.security.jwt import TokenRefused
from app.security.oidc import OutsideClaims, Provider
from app.security.tokens import Claims, TokenAuthority

Rows = Select[*tuple[Any, ...]]
"""A SELECT with any columns."""

S = TypeVar("S", bound=Select[*tuple[Any, ...]])
T = TypeVar("T")
M = TypeVar("M", bound=SQLModel)


class GrantsChanged(Unauthenticated):
    """The account's grants changed after this token was issued; sign in again."""


class TokenInvalid(Unauthenticated):
    """The access token is missing, expired or not valid here."""


class TokenMisplaced(Malformed):
    """The access token goes once into the Authorization header, and nowhere else."""


class PermissionMissing(Forbidden):
    """Your role does not include the permission that this needs."""


class ScopeMissing(Exception):
    """A statement was to be limited to an actor's rows, but SCOPES has no rule for one of its tables."""


class Place(NamedTuple):
    """The codes of a site and its study, as answers show them."""

    study: str
    site: str


@dataclass(frozen=True)
class Actor:
    """A signed-in account, with the sites and studies where it has one permission."""

    account_id: UUID
    name: str
    organisation: str
    permission: Permission
    held: Mapping[Permission, frozenset[int]]
    """All permissions of the account, each with the keys of the studies where it was granted."""

    places: Mapping[int, Place]
    """The sites in reach, by key."""

    study_ids: frozenset[int]
    zones: Mapping[int, str] = field(default_factory=dict)
    """The time zones of the sites in reach, by key."""

    clinical_sites: frozenset[int] = frozenset()
    """The sites in reach through a role that reads clinical rows: row-level security shows the actor these."""

    everywhere: bool = False
    """Whether the actor is an admin of the whole deployment, who sees accounts and studies but no clinical row."""

    session_id: UUID | None = None
    """The session of the token, which stays when the account's other sessions are ended."""

    overseen: frozenset[int] = frozenset()
    """The sites in reach as a monitor: the actor may read their whole audit trail."""

    @property
    def site_ids(self) -> Collection[int]:
        return self.places.keys()

    def sites_at(self, study: str | None, site: str | None = None) -> list[int]:
        """The sites in reach with these codes of study and site; None means any. Raises NotFound if a code was given
        and no site matches: an empty list would look as if there were no records at that site."""
        sites = sorted(
            site_id
            for site_id, place in self.places.items()
            if study in (None, place.study) and site in (None, place.site)
        )
        if not sites and (study, site) != (None, None):
            raise NotFound
        return sites

    def site_at(self, study: str, site: str) -> int:
        """The key of the site in reach that has these codes. Raises NotFound."""
        return self.sites_at(study, site)[0]


class requires:  # noqa: N801 - reads as a word in route signatures
    """A dependency of routes: the signed-in actor, who has `permission`. 401 without a valid token, 403 without the
    permission."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, request: Request) -> Actor:
        claims = await _claims(request)
        known: KnownActors = request.app.state.actors
        actor = known.get(claims, self.permission)
        if actor is None:
            asked = time.monotonic()
            actor = await run_in_threadpool(load_actor, request.app.state.database, claims, self.permission)
            known.keep(claims, actor, asked)
            if isinstance(claims, OutsideClaims):
                request.state.afterwards = partial(request.app.state.outside_sign_ins, claims, actor.account_id)
        request.state.actor = actor
        request.app.state.rates.take(request, actor.account_id)
        if self.permission not in actor.held:
            fault = Fault("", "permission_missing", f"Needs the permission {self.permission}")
            raise PermissionMissing(fault, headers=_challenge("insufficient_scope", self.permission))
        return actor


class KnownActors:
    """A cache of actors for each token and permission. The end of a token, session, account or grant therefore takes
    effect within `seconds`."""

    def __init__(self, seconds: float, size: int = 4096) -> None:
        self._seconds, self._size = seconds, size
        self._kept: dict[tuple[UUID, Permission], tuple[float, Actor]] = {}

    def get(self, claims: Claims | OutsideClaims, permission: Permission) -> Actor | None:
        until, actor = self._kept.get((claims.token_id, permission), (0.0, None))
        return actor if time.monotonic() < until else None

    def keep(self, claims: Claims | OutsideClaims, actor: Actor, since: float) -> None:
        """Cache an actor. `since` is the time before the look-up, which may itself have waited."""
        if len(self._kept) >= self._size:
            self._kept.clear()
        self._kept[claims.token_id, actor.permission] = (since + self._seconds, actor)


def _challenge(error: str | None = None, scope: str | None = None) -> dict[str, str]:
    """The header WWW-Authenticate. RFC 6750, section 3: without an error code where the request had no credentials."""
    parameters = (("error", error), ("scope", scope))
    parts = ['Bearer realm="registry"', *(f'{name}="{value}"' for name, value in parameters if value)]
    return {"WWW-Authenticate": ", ".join(parts)}


async def _claims(request: Request) -> Claims | OutsideClaims:
    headers = request.headers.getlist("authorization")
    if len(headers) > 1 or "access_token" in request.query_params:
        raise TokenMisplaced(headers=_challenge("invalid_request"))
    scheme, _, token = headers[0].partition(" ") if headers else ("", "", "")
    if scheme.lower() != "bearer":
        raise TokenInvalid(headers=_challenge())
    tokens: TokenAuthority = request.app.state.tokens
    provider: Provider | None = request.app.state.provider
    try:
        return tokens.verify(token)
    except TokenRefused:
        if provider is None:
            raise TokenInvalid(headers=_challenge("invalid_token")) from None
    try:
        return await run_in_threadpool(provider.verify, token)
    except TokenRefused:
        raise TokenInvalid(headers=_challenge("invalid_token")) from None


SITES_OF_GRANT = and_(
    col(Site.study_id) == col(RoleGrant.study_id),
    or_(col(RoleGrant.site_id).is_(None), col(RoleGrant.site_id) == col(Site.id)),
)
"""The sites at which a role is held: one of the study, or all of them."""


@cache
def _grants(ours: bool) -> Rows:
    """The query for the account of a token, ours or the provider's, with a row for each site of each grant."""
    theirs = (Account.oidc_issuer, "issuer"), (Account.oidc_subject, "subject"), (Account.kind, "kind")
    named = ((Account.id, "subject"),) if ours else theirs
    wanted: list[Any] = [
        Account.id,
        Account.display_name,
        Account.organisation,
        Account.kind,
        Account.disabled_at,
        Account.grants_version,
    ]
    wanted += [RoleGrant.role, RoleGrant.study_id, col(Site.id).label("site_id"), Site.timezone]
    wanted += [col(Study.code).label("study"), col(Site.code).label("site"), col(Revocation.id).label("revoked")]
    return (
        select(*wanted)
        .select_from(Account)
        .outerjoin(Revocation, among(Revocation.id, "tokens"))
        .outerjoin(RoleGrant, and_(col(RoleGrant.account_id) == col(Account.id), col(RoleGrant.revoked_at).is_(None)))
        .outerjoin(Study, col(Study.id) == col(RoleGrant.study_id))
        .outerjoin(Site, SITES_OF_GRANT)
        .where(*(col(column) == bindparam(name) for column, name in named))
    )


def load_actor(database: Database, claims: Claims | OutsideClaims, permission: Permission) -> Actor:
    """The account of a token as it is now. One query in a short session of its own, so that a request occupies no
    connection while its body is read and checked. Raises TokenInvalid or GrantsChanged."""
    asked: dict[str, Any] = {"subject": claims.subject, "tokens": [claims.token_id, claims.session or claims.token_id]}
    if isinstance(claims, OutsideClaims):
        asked |= {"issuer": claims.issuer, "kind": AccountKind.user}
    with database.read() as session:
        rows = session.connection().execute(_grants(isinstance(claims, Claims)), asked).all()
    refused = _challenge("invalid_token")
    if not rows or rows[0].disabled_at is not None or rows[0].revoked is not None:
        raise TokenInvalid(headers=refused)
    if isinstance(claims, Claims) and rows[0].grants_version != claims.grants_version:
        raise GrantsChanged(headers=refused)
    grants = [row for row in rows if row.role is not None]
    kind = AccountKind(rows[0].kind)
    reach = [row for row in grants if permission in granted(Role(row.role), kind)]
    sites = [row for row in reach if row.site_id is not None]
    return Actor(
        account_id=rows[0].id,
        name=rows[0].display_name,
        organisation=rows[0].organisation,
        permission=permission,
        held=_held({(granted(Role(row.role), kind), row.study_id) for row in grants}),
        zones={row.site_id: row.timezone for row in sites},
        places={row.site_id: Place(row.study, row.site) for row in sites},
        study_ids=frozenset(row.study_id for row in reach if row.study_id is not None),
        clinical_sites=frozenset(row.site_id for row in sites if GRANTS[Role(row.role)] & CLINICAL_READS),
        everywhere=any(row.role == Role.admin for row in reach),
        session_id=claims.session,
        overseen=frozenset(row.site_id for row in sites if row.role == Role.monitor),
    )


def _held(grants: Collection[tuple[frozenset[Permission], int | None]]) -> Mapping[Permission, frozenset[int]]:
    return {
        permission: frozenset(study_id for permissions, study_id in grants if study_id and permission in permissions)
        for permission in frozenset().union(*(permissions for permissions, _ in grants))
    }


def _own_sites(column: Any) -> Callable[[Actor | None], ColumnElement[bool]]:
    return lambda actor: (
        among(column, "reach", unseen=True) if actor is None else col(column).in_(sorted(actor.site_ids))
    )


def _own_studies(column: Any) -> Callable[[Actor], ColumnElement[bool]]:
    return lambda actor: true() if actor.everywhere else col(column).in_(sorted(actor.study_ids))


def _audit_entries(actor: Actor) -> ColumnElement[bool]:
    """All entries of the sites that the actor monitors, and for admins of the registry's own chain; elsewhere only
    those of the actor's own actions."""
    chain = col(AuditEntry.site_id)
    whole = {*actor.overseen, *([REGISTRY_CHAIN] if actor.everywhere else [])}
    in_reach = chain.in_(sorted({REGISTRY_CHAIN, *actor.site_ids, *whole}))  # separate, so that an index is used
    return and_(in_reach, or_(chain.in_(sorted(whole)), col(AuditEntry.actor) == str(actor.account_id)))


def _extracts(actor: Actor) -> ColumnElement[bool]:
    """The actor's own requests; in the studies where the actor decides on requests, all."""
    return _asked_for(Extract, actor, Permission.extract_approve, true())


def _label_disclosures(actor: Actor) -> ColumnElement[bool]:
    """The same, but of the actor's own requests only those about participants of sites that are still in reach."""
    there = select(col(Participant.pid)).where(col(Participant.site_id).in_(sorted(actor.site_ids)))
    return _asked_for(LabelDisclosure, actor, Permission.label_approve, col(LabelDisclosure.pid).in_(there))


def _asked_for(
    table: type[Extract] | type[LabelDisclosure], actor: Actor, decides: Permission, own: ColumnElement[bool]
) -> ColumnElement[bool]:
    in_study = col(table.study_id).in_(sorted(actor.study_ids))
    decided = col(table.study_id).in_(sorted(actor.held.get(decides, ())))
    return and_(in_study, or_(decided, and_(col(table.requested_by) == actor.account_id, own)))


def _of_the_deployment(actor: Actor) -> ColumnElement[bool]:
    """Rows that only admins see."""
    return true() if actor.everywhere else false()


SCOPES: Mapping[str, Callable[[Actor], ColumnElement[bool]]] = {
    "account": _of_the_deployment,
    "adverse_event": _own_sites(AdverseEvent.site_id),
    "audit_entry": _audit_entries,
    "dosing_session": _own_sites(DosingSession.site_id),
    "data_cut": _own_studies(DataCut.study_id),
    "data_query": _own_sites(DataQuery.site_id),
    "data_query_message": _own_sites(DataQueryMessage.site_id),
    "data_lock": _own_sites(DataLock.site_id),
    "delivery": _of_the_deployment,
    "extract": _extracts,
    "label_disclosure": _label_disclosures,
    "notification": _of_the_deployment,
    "outcome": _own_sites(Outcome.site_id),
    "participant": _own_sites(Participant.site_id),
    "pid_reservation": _own_sites(PidReservation.site_id),
    "protocol_version": _own_studies(ProtocolVersion.study_id),
    "reserved_pid": _own_sites(ReservedPid.site_id),
    "safety_signal": _own_sites(SafetySignal.site_id),
    "signature": _own_sites(Signature.site_id),
    "site": lambda actor: true() if actor.everywhere else _own_sites(Site.id)(actor),
    "study": _own_studies(Study.id),
    "verification": _own_sites(Verification.site_id),
    "subscription": _of_the_deployment,
    "sync_operation": lambda actor: col(SyncOperation.account_id) == actor.account_id,
    "visit": _own_sites(Visit.site_id),
}
"""Which rows of a table exist for an actor. A table without a rule here cannot be queried through `visible`."""


def reach(actor: Actor) -> dict[str, list[int]]:
    """The parameters of a statement made by `visible(statement, None)`."""
    return {"reach": sorted(actor.site_ids)}


def visible(statement: S, actor: Actor | None) -> S:
    """`statement` limited to the rows that exist for `actor`, in every table of which it returns columns. With None the
    sites are parameters, given by `reach(actor)` on execution, so that a frequent statement can be built once.

    A statement that returns no table's columns (a bare count), or a table without a rule, is a defect: ScopeMissing.
    """
    tables = {cast(Table, source).name for source in statement.columns_clause_froms}
    if not tables or not tables <= SCOPES.keys():
        raise ScopeMissing(sorted(tables))
    return statement.where(*(SCOPES[name](actor) for name in sorted(tables)))  # type: ignore[arg-type]


def narrowed(statement: S, *asked: tuple[Any, Any]) -> S:
    """`statement` with a condition for each (column, value); a value of None adds none."""
    return statement.where(*(column == value for column, value in asked if value is not None))


def found(row: T | None) -> T:
    """The row itself. Raises NotFound if it is None: absent and invisible rows get the same 404."""
    if row is None:
        raise NotFound
    return row


def visible_row(
    session: Session, actor: Actor, table: type[M], row_id: UUID, *, lock: bool = False, key_share: bool = False
) -> M:
    """The row of a table with this id, if it exists for the actor; with `lock` it is locked until the commit, and with
    `key_share` others may go on to store rows that refer to it. Raises NotFound."""
    statement = visible(select(table).where(table_of(table).c.id == row_id), actor)
    return found(session.scalars(statement.with_for_update(key_share=key_share) if lock else statement).first())
