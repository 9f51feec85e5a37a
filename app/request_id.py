"""The request id: in the answer's header, in problems, in logs and in audit entries."""

from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def set_request_id(request_id: str | None) -> None:
    _current.set(request_id)


def current_request_id() -> str | None:
    """The id of the request at work; None outside of one."""
    return _current.get()
