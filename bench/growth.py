"""A group of cases: the same requests to a registry of ten thousand rows and to one of a million, in turns.

Two databases, since it is the tables that grow: two studies of one database would share every index.
"""

from collections.abc import Iterator
from itertools import cycle

from sqlmodel import select

from app.database import Database
from app.models.audit import AuditChain
from app.models.change import ChangeFilter
from app.permissions import Permission
from app.security.keys import load_keyring
from app.services.trail.changes import Places
from bench.cases import PAGE, VISIT, Place, page_of
from bench.ground import Ground, Group, Target, rates
from bench.load import Request
from bench.measure import Case, asked

EVERYWHERE, FEED, SCHEDULE = "AE page of all sites", "change feed, newest 50", "participant's schedule"


def growth(ground: Ground) -> Group:
    """Time an answer, large / small."""
    small, large = ground.grown()
    names = (PAGE, EVERYWHERE, VISIT, FEED, SCHEDULE)
    targets = [Target(f"growth: {name}", *rates(f"{name}, small", f"{name}, large"), most=1.2) for name in names]
    return Group([*_cases(small, "small"), *_cases(large, "large")], targets)


def _cases(place: Place, size: str) -> list[Case]:
    server = place.server
    return [
        asked(f"{PAGE}, {size}", server, place.get(page_of(place))),
        asked(f"{EVERYWHERE}, {size}", server, place.get("/v1/adverse-events?limit=50")),
        asked(f"{VISIT}, {size}", server, place.post_visit(), into=place.settings),
        asked(f"{FEED}, {size}", server, place.get(f"/v1/changes?limit=50&after={_near_the_end(place)}")),
        asked(f"{SCHEDULE}, {size}", server, _schedules(place)),
    ]


def _schedules(place: Place) -> Request:
    asked_for: Iterator[str] = cycle(place.seeded.pids)
    headers = place.get("")()[2]
    return lambda: ("GET", f"/v1/participants/{next(asked_for)}/schedule", headers, b"")


def _near_the_end(place: Place) -> str:
    """A place in the feed behind which each site has fifty changes, as the monitor would keep it."""
    with Database(place.settings) as database, database.read() as session:
        heads = {chain.site_id: max(0, chain.seq - 50) for chain in session.exec(select(AuditChain))}
    return Places(load_keyring(place.settings), place.monitor(Permission.change_read), ChangeFilter()).written(heads)
