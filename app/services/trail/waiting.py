"""Requests that wait for a change. A worker reads the heads of the chains once for all of them, so that a hundred
waiting requests cost no more than one."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from uuid import UUID

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database, within
from app.errors import DatabaseUnavailable, RateExceeded, RegistryError
from app.services.trail.changes import chain_heads

LOOK_SECONDS = 0.5
"""Seconds between two queries for new entries, while any request waits."""

MOST_OF_ACCOUNT = 100
"""Requests of an account at the change feed at once, in each worker: each occupies a client connection, and these are
limited."""


class TooManyWaiting(RegistryError):
    """This account has as many requests at the change feed as it may have at once; end one of them first."""

    status = RateExceeded.status
    title = RateExceeded.title


class _Waiter:
    def __init__(self, sites: Collection[int], place: Mapping[int, int]) -> None:
        self.sites, self._place, self.heard = frozenset(sites), place, asyncio.Event()

    def hear(self, reached: Mapping[int, int]) -> None:
        if any(reached.get(site, 0) > self._place.get(site, 0) for site in self.sites):
            self.heard.set()


class Waiting:
    """The requests of one worker that wait for changes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: set[_Waiter] = set()
        self._looking: asyncio.Task[None] | None = None
        self._of_accounts: Counter[UUID] = Counter()
        self.over = False
        """Whether the server stops: then no request waits any more."""

    @contextmanager
    def one_more(self, account_id: UUID) -> Iterator[None]:
        """Count a request of this account while it is at the feed. Raises TooManyWaiting."""
        if self._of_accounts[account_id] >= MOST_OF_ACCOUNT:
            raise TooManyWaiting
        self._of_accounts[account_id] += 1
        try:
            yield
        finally:
            self._of_accounts[account_id] -= 1

    async def moved(self, sites: Collection[int], place: Mapping[int, int], seconds: float) -> None:
        """Wait until one of the sites' chains has entries after the place, the query for them failed, the time has
        passed or the server stops. Which of these happened, the caller finds out by its own query."""
        if self.over:
            return
        waiter = _Waiter(sites, place)
        self._waiters.add(waiter)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(waiter.heard.wait(), seconds)
        finally:
            self._waiters.discard(waiter)

    def end(self) -> None:
        """End the wait of all requests."""
        self.over = True
        for waiter in self._waiters:
            waiter.heard.set()

    async def _look(self) -> None:
        while self._waiters:
            await asyncio.sleep(LOOK_SECONDS)
            sites = frozenset[int]().union(*(waiter.sites for waiter in self._waiters))
            try:
                reached = await run_in_threadpool(self._heads, sites)
            except (DatabaseUnavailable, SQLAlchemyError):  # each request meets the error by its own query
                for waiter in self._waiters:
                    waiter.heard.set()
            else:
                for waiter in self._waiters:
                    waiter.hear(reached)

    def _heads(self, sites: Collection[int]) -> dict[int, int]:
        with self._database.read() as session, within(session, sites):
            return chain_heads(session, sites)
