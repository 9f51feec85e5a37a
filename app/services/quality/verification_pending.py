"""The records that the protocol's verification plan covers, and that nobody has verified as they are now."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row, String, or_
from sqlmodel import Session

from app.access import Actor, Rows, visible
from app.models.among import among
from app.models.base import table_of
from app.models.verification import PendingFilter, PendingRead, PendingState, Verification
from app.pid import display
from app.protocol.verification import RecordKind
from app.protocol.verification import Verification as Plan
from app.services.quality.verification_coverage import people_of, sampled, stands, state_of, trail_of
from app.services.quality.verifications import SUBJECTS, recorded

Plans = Mapping[str, Plan]
_MADE = table_of(Verification)


def plans_of(session: Session, actor: Actor, query: PendingFilter) -> Plans:
    """By pid, the plans of those who are sampled at the sites that are asked for. Raises NotFound."""
    return sampled(session, query.study, people_of(session, actor.sites_at(query.study, query.site)))


def rows(actor: Actor, query: PendingFilter, plans: Plans) -> Rows:
    """Covered records without a verification of their present version, by `pid`, `subject_type` and `subject`."""
    site_ids = actor.sites_at(query.study, query.site)
    parts = []
    for number, ((kind, instruments), pids) in enumerate(_covered(plans).items()):
        stored = table_of(SUBJECTS[kind].table)
        theirs = stored.c.site_id.in_(site_ids), among(stored.c.pid, f"people_{number}", pids)
        parts.append(_part(actor, query.state, kind, instruments).where(*theirs))
    listed = sa.union_all(*parts).subquery("pending")
    return sa.select(*listed.c)


def _covered(plans: Plans) -> Mapping[tuple[RecordKind, Sequence[str]], list[str]]:
    """Whose records of a kind are covered; of outcomes, of these instruments only, where any are named."""
    people: dict[tuple[RecordKind, Sequence[str]], list[str]] = defaultdict(list)
    for pid, plan in plans.items():
        for critical in plan.critical:
            people[critical.record, critical.instruments].append(pid)
    return people or {(RecordKind.participant, ()): []}


def _part(actor: Actor, state: PendingState | None, kind: RecordKind, instruments: Sequence[str]) -> Rows:
    subject = SUBJECTS[kind]
    stored = table_of(subject.table)
    unseen, moved = _MADE.c.result.is_(None), _MADE.c.subject_version != stored.c.version
    asked = {None: or_(unseen, moved), PendingState.unverified: unseen, PendingState.needs_reverification: moved}
    own = sa.select(
        stored.c.site_id,
        stored.c.pid,
        sa.literal(kind.value).label("subject_type"),
        sa.cast(stored.c[subject.key], String).label("subject"),
        stored.c.version,
    ).select_from(stored.outerjoin(_MADE, stands(kind)))
    seen = (_MADE.c.result.label("result"), _MADE.c.subject_version.label("verified_version"))
    statement: Rows = visible(own, actor).add_columns(*seen).where(asked[state], recorded(kind))  # narrowed already
    return statement.where(stored.c.instrument.in_(instruments)) if instruments else statement


class _Seen(NamedTuple):
    """A record with what was verified of it, as coverage reads them."""

    site_id: int
    pid: str
    kind: RecordKind
    subject: str
    version: int
    result: str | None
    verified_version: int | None

    @property
    def moved(self) -> str | None:
        return None if self.verified_version is None else self.subject


def read(session: Session, actor: Actor, plans: Plans, page: Iterable[Row[Any]]) -> Iterator[PendingRead]:
    """Those of a page that are to be verified: where no critical field was corrected, a verification stands."""
    seen = [_seen(row) for row in page]
    covered = [(critical, one) for one in seen if (critical := plans[one.pid].of(one.kind))]
    trail = trail_of(session, covered)
    for critical, one in covered:
        state = state_of(critical, one, trail)
        if state in set(PendingState):
            place = actor.places[one.site_id]
            yield PendingRead(
                study=place.study,
                site=place.site,
                participant=one.pid,
                subject_type=one.kind,
                subject=display(one.subject) if one.kind is RecordKind.participant else one.subject,
                version=one.version,
                fields=list(critical.fields),
                state=PendingState(state),
                verified_version=one.verified_version,
            )


def _seen(row: Row[Any]) -> _Seen:
    kind = RecordKind(row.subject_type)
    subject = row.subject if kind is RecordKind.participant else str(UUID(row.subject))
    return _Seen(row.site_id, row.pid, kind, subject, row.version, row.result, row.verified_version)
