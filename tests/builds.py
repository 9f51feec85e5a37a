"""Building extracts in tests: by a worker of one's own, which may die."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlmodel import col, update

from app.database import Database
from app.models.base import now
from app.models.extract import Extract, ExtractBuild
from app.services.extracts import building, extract_csv
from tests.route_cases import extract_of
from tests.world import World, madrs


class Killed(BaseException):
    """The worker is gone, without a chance to say so."""


def key(path: str) -> UUID:
    return UUID(path.rpartition("/")[2])


def built(world: World, stopping: Callable[[], bool] = lambda: False) -> bool:
    """A worker looks for something to build, with connections of its own, and builds it."""
    app = world.registry.app
    with Database(app.state.settings, for_server=True) as database:
        return building.build_next(database, app.state.keyring, stopping)


def status(world: World, path: str) -> str:
    found: str = world.analyst.get(path).json()["status"]
    return found


def lapse(world: World, path: str) -> None:
    """The lease of this extract runs out; those that other tests left hold on."""
    mine = update(ExtractBuild).where(col(ExtractBuild.extract_id) == key(path))
    with world.registry.database.write() as session:
        session.execute(mine.values(leased_until=now() - timedelta(seconds=1)))


def dies_after(monkeypatch: pytest.MonkeyPatch, tables: int, fault: type[BaseException] = Killed) -> None:
    """The worker ends when it has written so many tables."""
    written, count = extract_csv.parts, iter(range(tables))

    def parts(*asked: Any) -> Iterator[bytes]:
        yield from written(*asked)
        if next(count, None) is None:
            raise fault

    monkeypatch.setattr(extract_csv, "parts", parts)


def approved_of_several(world: World) -> str:
    """The path of an approved extract of five people with a score each, and of one with none."""
    for score in range(5):
        visit = world.visit(world.enrolled(), "UNS", "2025-02-01", outcomes=[madrs(score)])
        assert world.staff_a.post("/v1/visits", visit).status_code == 201
    return extract_of(world, approved=True)


def built_again(world: World, path: str) -> str | None:
    with world.registry.served.read() as session:
        extract = session.get_one(Extract, key(path))
    return building.differing(world.registry.served, extract)
