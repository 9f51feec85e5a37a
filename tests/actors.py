"""Who asks, remembered in tests until something is written to what that is read from.

Served, a worker remembers an actor for a second. The tests change grants behind its back and ask at once, so it may
not; and to look whoever asks up for each request took a tenth of the run.
"""

import asyncio
import re
import time
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, event

from app.access import Actor, KnownActors
from app.permissions import Permission
from app.security.oidc import OutsideClaims
from app.security.tokens import Claims
from tests.direct import OwnLoop

_WRITES = re.compile(r'(INSERT INTO|UPDATE|DELETE FROM)\s+"?(account|role_grant|revocation|site|study)\b')
_written = 0.0
"""When anything was last written there."""


@lru_cache(4096)
def _writes(statement: str) -> bool:
    return _WRITES.search(statement) is not None


def forget(*_: Any) -> None:
    """Look everybody up again."""
    global _written  # noqa: PLW0603 - of all connections of this process
    _written = time.monotonic()


def _hear(_cursor: Any, statement: str, *_: Any) -> None:
    if _writes(statement):
        forget()


for _way in ("do_execute", "do_executemany", "do_execute_no_params"):
    event.listen(Engine, _way, _hear)


class RememberedActors(KnownActors):
    """Of what the test's own thread asks; whoever races in others is looked up each time."""

    def __init__(self) -> None:
        super().__init__(0)

    def get(self, claims: Claims | OutsideClaims, permission: Permission) -> Actor | None:
        since, actor = self._kept.get((claims.token_id, permission), (0.0, None))
        return actor if since > _written else None

    def keep(self, claims: Claims | OutsideClaims, actor: Actor, since: float) -> None:
        if isinstance(claims, Claims) and isinstance(asyncio.get_running_loop(), OwnLoop):
            super().keep(claims, actor, since)
