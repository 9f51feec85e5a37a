"""How many requests an account may send: protection against an app that runs wild, not accounting.

One token bucket for each account in each worker's memory: it costs no statement, and with N workers an account may send
up to N times as much. Only accounts that proved who they are have a bucket, so nobody can use up somebody else's.
"""

import math
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import RateExceeded

WINDOW_SECONDS = 60
POLICY = "account"


class Rates:
    """The headers about the buckets (draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4)."""

    def __init__(self, per_window: int) -> None:
        """With `per_window` 0 nothing is counted."""
        self._quota, self._per_second = per_window, per_window / WINDOW_SECONDS
        self._policy = f'"{POLICY}";q={per_window};w={WINDOW_SECONDS}'
        self._buckets: dict[UUID, tuple[float, float]] = {}

    def take(self, request: Request, account_id: UUID) -> None:
        """Count a request, only once even if its caller is looked up several times. Raises RateExceeded."""
        if not self._quota or hasattr(request.state, "rate"):
            return
        at = time.monotonic()
        left, since = self._buckets.get(account_id, (float(self._quota), at))
        left = min(self._quota, left + (at - since) * self._per_second)
        allowed = left >= 1
        left -= allowed
        self._buckets[account_id] = (left, at)
        wanted = self._quota if left >= 1 else 1  # until all is there again, or until there is something at all
        seconds = math.ceil((wanted - left) / self._per_second)
        request.state.rate = {"RateLimit": f'"{POLICY}";r={int(left)};t={seconds}', "RateLimit-Policy": self._policy}
        if not allowed:
            raise RateExceeded(headers={"Retry-After": str(seconds)}, **{"violated-policies": [POLICY]})


def uncounted(app: ASGIApp, state: Mapping[str, Any]) -> ASGIApp:
    """The application for requests that are parts of a request that was counted, so that they are not counted again.
    `state` is given to each of them."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {**state, "rate": {}}}, receive, send)

    return called
