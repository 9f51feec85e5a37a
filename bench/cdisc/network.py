"""A network that loses answers. It is below the client, which does not know of it."""

import random
import time
from collections.abc import Callable

import httpx

Answered = Callable[[str, float], None]
"""Called with the path and the seconds of every single answer."""


class Network(httpx.HTTPTransport):
    """Reports how long each answer took, and drops a share of the answers after they arrived, as a broken connection
    does."""

    def __init__(self, answered: Answered, lose: float) -> None:
        super().__init__()
        self._answered, self._lose = answered, lose
        self.lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        started = time.perf_counter()
        answer = super().handle_request(request)
        answer.read()
        self._answered(request.url.path, time.perf_counter() - started)
        if random.random() < self._lose:
            self.lost += 1
            raise httpx.ReadError("thrown away")
        return answer
