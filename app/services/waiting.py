"""Whoever waits for a change waits here: a worker looks where the chains stand once for all of them, so that a hundred
who wait cost it no more than one."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from uuid import UUID

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database, within
from app.errors import DatabaseUnavailable, RateExceeded, RegistryError
from app.services.changes import chain_heads

LOOK_SECONDS = 0.5
"""Between two looks while anybody waits."""

MOST_OF_ACCOUNT = 100
"""Requests of an account that a worker has at the feed at once: each keeps a connection, of which there are only so
many."""


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
    """Those of one worker who wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: set[_Waiter] = set()
        self._looking: asyncio.Task[None] | None = None
        self._of_accounts: Counter[UUID] = Counter()
        self.over = False
        """The server stops: nobody waits any more."""

    @contextmanager
    def one_more(self, account_id: UUID) -> Iterator[None]:
        """While a request of this account is at the feed. Raises TooManyWaiting."""
        if self._of_accounts[account_id] >= MOST_OF_ACCOUNT:
            raise TooManyWaiting
        self._of_accounts[account_id] += 1
        try:
            yield
        finally:
            self._of_accounts[account_id] -= 1

    async def moved(self, sites: Collection[int], place: Mapping[int, int], seconds: float) -> None:
        """Wait until one of the sites' chains has moved past the place, no look was possible, the time has passed or
        the server stops. Which of these, one's own look tells."""
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
        """Let everybody go."""
        self.over = True
        for waiter in self._waiters:
            waiter.heard.set()

    async def _look(self) -> None:
        while self._waiters:
            await asyncio.sleep(LOOK_SECONDS)
            sites = frozenset[int]().union(*(waiter.sites for waiter in self._waiters))
            try:
                reached = await run_in_threadpool(self._heads, sites)
            except (DatabaseUnavailable, SQLAlchemyError):  # each is to hear it by a look of its own
                for waiter in self._waiters:
                    waiter.heard.set()
            else:
                for waiter in self._waiters:
                    waiter.hear(reached)

    def _heads(self, sites: Collection[int]) -> dict[int, int]:
        with self._database.read() as session, within(session, sites):
            return chain_heads(session, sites)
