"""Which occurrence of a visit counts where one of each is wanted. Each screening has visits of its own."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from app.models.visit import Visit
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.services.participation.collected import collected


def counted(protocols: Iterable[Protocol], ended: Any = None) -> ColumnElement[bool]:
    """Whether a visit is the first occurrence; of what each screening has of its own, the first one of the last
    screening that had it, as that screening led to the enrolment (domain.md, section 1a). `protocols`: the versions of
    the study's protocol. `ended`: the day on which the collection ended, see `collected`."""
    each = in_each_screening(protocols)
    once = (col(Visit.occurrence) == 1) & col(Visit.visit_code).not_in(sorted(each))
    return or_(once, *_of_last_screening(each.items(), ended))


def in_each_screening(protocols: Iterable[Protocol]) -> Mapping[str, int]:
    """The visits that each screening has of its own, with their number: the most that any of these versions plans, so
    that no repeat counts as of another screening."""
    each: dict[str, int] = {}
    for visit in (visit for one in protocols for visit in one.visits if visit.in_each_screening):
        each[visit.code] = max(visit.repeats, each.get(visit.code, 0))
    return each


def _of_last_screening(each: Iterable[tuple[str, int]], ended: Any) -> Iterator[ColumnElement[bool]]:
    for code, many in sorted(each):
        later: Any = aliased(Visit)
        held = select(later.id).where(
            col(later.site_id) == col(Visit.site_id),
            col(later.pid) == col(Visit.pid),
            col(later.visit_code) == code,
            col(later.occurrence) > col(Visit.occurrence),
            _begins(later, many),
            col(later.occurred_on).is_not(None),
            counts(later),
        )
        if ended is not None:
            held = held.where(collected(ended, col(later.occurred_on)))
        followed = held.correlate_except(later).exists()
        yield (col(Visit.visit_code) == code) & _begins(Visit, many) & ~followed


def _begins(visit: Any, many: int) -> ColumnElement[bool]:
    """Whether a visit is the first of the `many` of its screening."""
    begins: ColumnElement[bool] = (col(visit.occurrence) - 1) % many == 0
    return begins
