"""How many data queries stand how, and how old the open ones are."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import ceil
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlmodel import Session, col

from app.access import Actor, visible
from app.models.base import now
from app.models.data_query import DataQuery, QueryOrigin, QueryState
from app.models.data_query_shapes import MonitoringQueries, QueriesOfOrigin, QueriesOfSite

_DAY = timedelta(days=1)
Numbers = Mapping[tuple[int, str], "QueryNumbers"]


class QueryNumbers(NamedTuple):
    """The data queries of one site and origin."""

    states: Counter[str]
    ages: list[float]


def monitoring_queries(session: Session, actor: Actor, study: str) -> MonitoringQueries:
    """Data queries by site and origin, sites in the order of their codes. Raises NotFound for a study out of reach."""
    site_ids = sites_by_code(actor, study)
    numbers = standings(session, actor, site_ids)
    sites = [
        QueriesOfSite(
            site=actor.places[site_id].site,
            **query_counts([numbers[site_id, origin] for origin in QueryOrigin]),
            by_origin=[
                QueriesOfOrigin(origin=origin, **query_counts([numbers[site_id, origin]])) for origin in QueryOrigin
            ],
        )
        for site_id in site_ids
    ]
    return MonitoringQueries(study=study, sites=sites)


def sites_by_code(actor: Actor, study: str) -> list[int]:
    """The keys of a study's sites in reach, in the order of their codes. Raises NotFound when there is none."""
    return sorted(actor.sites_at(study), key=lambda site_id: actor.places[site_id].site)


def standings(session: Session, actor: Actor, site_ids: Sequence[int]) -> Numbers:
    """By site and origin; two statements however many sites there are."""
    numbers: defaultdict[tuple[int, str], QueryNumbers] = defaultdict(lambda: QueryNumbers(Counter(), []))
    group: list[Any] = [DataQuery.site_id, DataQuery.origin, DataQuery.state]
    wanted: list[Any] = [*group, func.count().label("number")]
    counted = visible(select(*wanted).where(col(DataQuery.site_id).in_(site_ids)), actor).group_by(*group)
    for site_id, origin, state, number in session.execute(counted):
        numbers[site_id, origin].states[state] = number
    at = now()
    open_ones: list[Any] = [DataQuery.site_id, DataQuery.origin, DataQuery.open_since]
    still = select(*open_ones).where(col(DataQuery.site_id).in_(site_ids), col(DataQuery.state) == QueryState.open)
    for site_id, origin, since in session.execute(visible(still, actor)):
        numbers[site_id, origin].ages.append((at - since) / _DAY)
    return numbers


def query_counts(parts: Sequence[QueryNumbers]) -> dict[str, Any]:
    """The fields of QueryCounts over these parts together."""
    states = sum((part.states for part in parts), Counter[str]())
    ages = sorted(age for part in parts for age in part.ages)
    return {
        **{state.value: states[state] for state in QueryState},
        "median_age_days": round(median(ages), 2) if ages else None,
        "p90_age_days": round(ages[ceil(0.9 * len(ages)) - 1], 2) if ages else None,
    }
