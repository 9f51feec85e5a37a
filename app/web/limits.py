"""Bounds on what is read before anybody knows who asks: the headers and the address of a request."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import AddressTooLong, HeadersTooLarge, RegistryError
from app.settings import Settings
from app.web.problems import problem


class RequestLimits:
    """Refuses with 431 (RFC 6585, section 5) or 414 (RFC 9110, section 15.5.15), and closes the connection."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._headers, self._target = settings.max_header_bytes, settings.max_target_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        await (problem(refused, "/") if refused else self.app)(scope, receive, send)

    def _refused(self, scope: Scope) -> RegistryError | None:
        close = {"Connection": "close"}
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > self._target:
            return AddressTooLong(headers=close)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._headers:
            return HeadersTooLarge(headers=close)
        return None
