"""Valid requests that are made ready once, with the records they are about, and sent by one caller after another."""

import re
from dataclasses import dataclass
from functools import partialmethod
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from tests.route_cases import CASES, Route
from tests.world import Caller, World

OF_THE_CALLER: frozenset[Route] = frozenset(
    {
        ("POST", "/v1/me/password"),
        ("POST", "/v1/me/totp"),
        ("POST", "/v1/me/totp/confirmation"),
        ("POST", "/v1/signatures"),
        ("POST", "/v1/sync/{operation_id}/resolution"),
        ("GET", "/v1/label-disclosures/{disclosure_id}"),
        ("POST", "/v1/label-disclosures/{disclosure_id}/reading"),
    }
)
"""Routes whose request is about something of the caller's own: each caller needs one of their own."""


@dataclass
class Ready(Exception):
    """A request as its case would send it."""

    method: str
    path: str
    sent: dict[str, Any]

    def by(self, caller: Caller) -> Response:
        """Sent with this caller's token, and never as a repetition."""
        headers = {**self.sent["headers"], **caller.headers()}
        if "Idempotency-Key" in headers:
            headers["Idempotency-Key"] = str(uuid4())
        return caller.client.request(self.method, self.path, **{**self.sent, "headers": headers})


class _Listener:
    """Stands where a caller's client is: what the case sends before the request to its route goes on to the client."""

    def __init__(self, client: TestClient, route: Route) -> None:
        self._client, self._method = client, route[0]
        self._address = re.compile(re.sub(r"\{\w+\}", "[^/]+", route[1]))

    def request(self, method: str, path: str, **sent: Any) -> Response:
        if method == self._method and self._address.fullmatch(path):
            raise Ready(method, path, sent)
        return self._client.request(method, path, **sent)

    get = partialmethod(request, "GET")
    post = partialmethod(request, "POST")
    patch = partialmethod(request, "PATCH")


def made_ready(world: World, route: Route, site: str, token: str = "") -> Ready:
    """The request of a route's case, by whoever has this token."""
    with pytest.raises(Ready) as stopped:
        CASES[route](world, Caller(_Listener(world.registry.client, route), token), site)
    return stopped.value


class Requests:
    """Requests on the records of one world. To be refused they are made ready once for everybody."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._ready: dict[tuple[Route, str], Ready] = {}

    def refused(self, route: Route, caller: Caller, site: str = "A") -> Response:
        """The answer to somebody who is to be refused, which leaves the request ready for the next one."""
        if route in OF_THE_CALLER:
            return CASES[route](self.world, caller, site)
        if (route, site) not in self._ready:
            self._ready[route, site] = made_ready(self.world, route, site)
        return self._ready[route, site].by(caller)

    def admitted(self, route: Route, caller: Caller, site: str = "A") -> Response:
        """The answer to somebody who is to be admitted: to the very request that was refused to others, if any was.
        What was only read can be read again."""
        ready = self._ready.get((route, site)) if route[0] == "GET" else self._ready.pop((route, site), None)
        return ready.by(caller) if ready else CASES[route](self.world, caller, site)
