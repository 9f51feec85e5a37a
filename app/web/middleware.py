"""Around every request: request id, safe headers, one log line without identifiers, and what is done afterwards."""

import re
import time
from asyncio import CancelledError
from uuid import uuid4

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Stopping
from app.request_id import set_request_id
from app.web import metrics, prefix, tracing
from app.web.problems import failure, problem

log = structlog.get_logger()
CLIENT_GONE = 499
"""The status in the log if the client left before it had sent everything or received the answer."""

_ACCEPTED_ID = re.compile(
    r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)
"""A request id from a client must be a UUID or the 32 hexadecimal digits of a trace id, so that no label of a person
can get into log and trail."""

_SAFE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class _HeadersSent(Exception):
    """HEAD has its answer; a body that comes in parts need not be made."""


class RequestFrame:
    """Pure ASGI, so that streamed answers are not buffered. It handles every exception that is left, as nothing above
    may log its text, which can contain values. Inside, HEAD is GET (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp, hsts_seconds: int = 0, root_path: str = "") -> None:
        self.app, self._root_path = app, root_path
        hsts = {"Strict-Transport-Security": f"max-age={hsts_seconds}"} if hsts_seconds else {}
        self._safe_headers = {**_SAFE_HEADERS, **hsts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _ACCEPTED_ID.fullmatch(sent) else str(uuid4())
        set_request_id(request_id)
        method, scope = scope["method"], prefix.enter(scope, self._root_path)
        if method == "HEAD":
            scope = _as_get(scope)
        started, status = time.perf_counter(), 0
        metrics.IN_FLIGHT.inc()

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                prefix.publish(headers)
                for name, value in self._safe_headers.items():
                    headers.setdefault(name, value)
                for name, value in scope.get("state", {}).get("rate", {}).items():
                    headers[name] = value
            elif method == "HEAD":
                await send({"type": "http.response.body"})
                if message.get("more_body"):
                    raise _HeadersSent
                return
            await send(message)

        try:
            await self.app(scope, receive, framed)
        except _HeadersSent:
            pass
        except ClientDisconnect:
            status = CLIENT_GONE
        except CancelledError:
            if status == 0:
                await problem(Stopping(), "/")(scope, receive, framed)
            raise
        except Exception as error:
            answer = failure(error)
            if status == 0:
                await answer(scope, receive, framed)
        finally:
            metrics.IN_FLIGHT.dec()
            _note(scope, method, request_id, status, time.perf_counter() - started)
            if afterwards := scope.get("state", {}).get("afterwards"):
                await run_in_threadpool(afterwards)


def _as_get(scope: Scope) -> Scope:
    """HEAD as the GET that it asks about, of the whole: parts are defined for GET only (RFC 9110, section 14.2). What
    remembers that a body was sent looks for `headers_only`."""
    whole = [(name, value) for name, value in scope["headers"] if name != b"range"]
    return {**scope, "method": "GET", "headers": whole, "headers_only": True}


def _note(scope: Scope, method: str, request_id: str, status: int, seconds: float) -> None:
    """Count a request that has ended, and log it."""
    route, actor = getattr(scope.get("route"), "path", None), scope.get("state", {}).get("actor")
    metrics.count(method, route, status, seconds)
    log.info(
        "request",
        request_id=request_id,
        method=method,
        route=route,
        status=status,
        milliseconds=round(seconds * 1000, 1),
        actor=str(actor.account_id) if actor else None,
        **tracing.named(),
    )
