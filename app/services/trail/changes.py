"""The change feed, read from the audit chains.

A transaction that appends to a chain locks its head until the commit, so the numbers of a chain are in the order of
commits and without gaps: a client that has seen a number has seen all before it, however long other transactions take.
A place in the feed is therefore one number for each site.
"""

import json
import zlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import Session

from app.access import Actor
from app.errors import Malformed
from app.models.among import among
from app.models.audit import AuditChain, AuditEntry
from app.models.base import table_of
from app.models.change import ChangeFilter, ChangeRead
from app.security.keys import Keyring
from app.security.sealing import SealBroken, seal, unseal

_ENTRIES, _CHAINS = table_of(AuditEntry), table_of(AuditChain)
_COLUMNS = ("site_id", "seq", "at", "action", "subject_type", "subject_id", "subject_version", "changes", "request_id")


class PlaceInvalid(Malformed):
    """`after` is not a `next` that this feed gave you; start again without it, and skip the changes that you have."""


class Places:
    """Converts places in the feed to the text that clients get: encrypted, and valid for this account and these filters
    only."""

    def __init__(self, keyring: Keyring, actor: Actor, query: ChangeFilter) -> None:
        self._key = keyring.derived("cursor")
        self._context = json.dumps(["changes", str(actor.account_id), query.study, query.site]).encode()

    def read(self, text: str | None) -> dict[int, int]:
        """Raises PlaceInvalid."""
        if text is None:
            return {}
        try:
            plain = unseal(self._key, text, self._context)
        except SealBroken:
            raise PlaceInvalid from None
        written = plain if plain.startswith(b"{") else zlib.decompress(plain)  # places were not compressed before
        return {int(site_id): seq for site_id, seq in json.loads(written).items()}

    def written(self, place: Mapping[int, int]) -> str:
        """A place as text, compressed so that a place of 400 sites fits into a query parameter (ChangeFilter.after)."""
        return seal(self._key, zlib.compress(json.dumps(place, separators=(",", ":")).encode()), self._context)


class NewChanges(NamedTuple):
    """Each change with the key of its site; the place after all entries read; whether there are more."""

    changes: list[tuple[int, ChangeRead]]
    place: dict[int, int]
    more: bool


def after(session: Session, actor: Actor, query: ChangeFilter, place: Mapping[int, int]) -> NewChanges:
    """The changes committed after a place. Sites no longer in reach are left out; those newly in reach start at their
    first entry."""
    wanted = _next(chain_heads(session, actor.sites_at(query.study, query.site)), place, query.limit + 1)
    here, changes = dict(place), []
    if not wanted:
        return NewChanges([], here, False)
    rows = session.execute(_entries(wanted)).all()
    for row in rows[: query.limit]:
        here[row.site_id] = row.seq
        if row.changes != "[]":  # an entry about reading, not about a change
            changes.append((row.site_id, _read(row, actor)))
    return NewChanges(changes, here, len(rows) > query.limit)


def chain_heads(session: Session, sites: Collection[int]) -> dict[int, int]:
    """The last number of the chain of each of these sites that has one."""
    theirs = sa.select(_CHAINS.c.site_id, _CHAINS.c.seq).where(among(_CHAINS.c.site_id, "sites", sorted(sites)))
    return {row.site_id: row.seq for row in session.execute(theirs)}


def _next(heads: Mapping[int, int], place: Mapping[int, int], limit: int) -> list[tuple[int, int, int]]:
    """The next entries, site by site: each with its first and last number. As chains have no gaps, their heads suffice
    to tell, and the cost does not grow with the length of chains or the number of sites."""
    wanted = []
    for site_id, head in sorted(heads.items()):
        first = place.get(site_id, 0) + 1
        last = min(head, first + limit - 1)
        if last >= first:
            wanted.append((site_id, first, last))
            limit -= last - first + 1
    return wanted


def _entries(wanted: list[tuple[int, int, int]]) -> sa.Select[Any]:
    ranges = [
        sa.and_(_ENTRIES.c.site_id == site_id, _ENTRIES.c.seq.between(first, last)) for site_id, first, last in wanted
    ]
    return (
        sa.select(*(_ENTRIES.c[name] for name in _COLUMNS))
        .where(sa.or_(*ranges))
        .order_by(_ENTRIES.c.site_id, _ENTRIES.c.seq)
    )


def _read(row: Row[Any], actor: Actor) -> ChangeRead:
    at = actor.places[row.site_id]
    return ChangeRead(
        study=at.study,
        site=at.site,
        seq=row.seq,
        at=row.at,
        action=row.action,
        subject_type=row.subject_type,
        subject_id=row.subject_id,
        version=row.subject_version,
        fields=[change["field"] for change in json.loads(row.changes)],
        request_id=UUID(row.request_id) if row.request_id else None,
    )
