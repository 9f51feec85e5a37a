"""What the groups of cases share: the main registry, seeded and served, and the databases that they ask for besides."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, create_engine

from bench.cases import Place, new_visits
from bench.measure import Case
from bench.seed import Volume, seed
from bench.serving import database_of, served, server_of, settings_for


class Target(NamedTuple):
    """One figure of a case divided by one of another, in each round; the median is held against a bound."""

    what: str
    over: tuple[str, str]
    """Case and figure."""

    under: tuple[str, str] | float
    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool:
        return ratio >= self.least if self.least is not None else ratio <= (self.most or 0.0)


class Group(NamedTuple):
    """Cases, and what is wanted of them."""

    cases: list[Case]
    targets: list[Target]


def rates(of: str, against: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Answers a second of one case against those of another."""
    return (of, "per_second"), (against, "per_second")


class Ground:
    """Everything that was opened is closed by the stack."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.options, self.folder, self.stack = options, folder, stack
        self.on_sqlite: bool = options.engine == "sqlite"
        self._server_url = stack.enter_context(server_of(options.engine, options.database_url, folder))
        self.volume = Volume(options.people, visits=7, sites=options.sites)
        self.main = self.place(self.volume)
        self._grown: tuple[Place, Place] | None = None

    def place(self, volume: Volume, **settings: Any) -> Place:
        """A registry of its own."""
        url = self.stack.enter_context(database_of(self._server_url, self.folder))
        given = settings_for(url, self.folder, **settings)
        seeded = seed(given, volume)
        server = self.stack.enter_context(served(given))
        return Place(given, seeded, server, new_visits(seeded.pids))

    def grown(self) -> tuple[Place, Place]:
        """A small registry and a large one, which differ in nothing else."""
        if self._grown is None:
            small, large = (Volume.of(rows) for rows in (self.options.small, self.options.large))
            self._grown = self.place(small), self.place(large)
        return self._grown

    def owner(self, place: Place) -> Engine:
        """PostgreSQL as the owner of the tables."""
        engine = create_engine(str(place.settings.owner_database_url), isolation_level="AUTOCOMMIT")
        self.stack.callback(engine.dispose)
        return engine
