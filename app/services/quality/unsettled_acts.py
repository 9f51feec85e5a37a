"""What apps sent and the registry could not store, as the monitors of their sites are shown it."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlmodel import Session, col

from app.access import SITES_OF_GRANT
from app.models.account import RoleGrant
from app.models.study import Site
from app.models.sync import SyncOperation, UnsettledActs
from app.permissions import GRANTS, Permission
from app.services.offline.sync_shelf import UNSETTLED

_MAY_SYNC = sorted(role for role, permissions in GRANTS.items() if Permission.sync_use in permissions)


def unsettled_acts(session: Session, sites: Sequence[int]) -> Mapping[int, UnsettledActs]:
    """By site. An act is sealed, and its site is not known before it is stored: it counts at each site at which its
    account had a role that may sync when the act came."""
    came, granted, revoked = col(SyncOperation.created_at), col(RoleGrant.granted_at), col(RoleGrant.revoked_at)
    acts = (  # an account may have two roles at one site
        sa.select(
            col(Site.id).label("site_id"), col(SyncOperation.account_id), col(SyncOperation.id), came.label("came")
        )
        .join(RoleGrant, col(RoleGrant.account_id) == col(SyncOperation.account_id))
        .join(Site, SITES_OF_GRANT)
        .where(
            col(SyncOperation.state).in_(UNSETTLED),
            col(RoleGrant.role).in_(_MAY_SYNC),
            granted <= came,
            revoked.is_(None) | (revoked > came),
            col(Site.id).in_(sites),
        )
        .distinct()
        .subquery()
    )
    counted = sa.select(acts.c.site_id, sa.func.count(), sa.func.min(acts.c.came)).group_by(acts.c.site_id)
    found = {
        site_id: UnsettledActs(count=count, oldest_at=oldest) for site_id, count, oldest in session.execute(counted)
    }
    return {site_id: found.get(site_id, UnsettledActs(count=0, oldest_at=None)) for site_id in sites}
