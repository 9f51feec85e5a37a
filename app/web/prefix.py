"""The path below which a proxy publishes the registry (REGISTRY_ROOT_PATH).

Inside, and in bodies, every address begins with /v1. Only what HTTP itself resolves against the address of the request
gets the path put before it: `Location`, `Link`, and the references of a problem document.
"""

from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import Scope

_root: ContextVar[str] = ContextVar("root_path", default="")


def enter(scope: Scope, root: str) -> Scope:
    """The request without the path, which some proxies remove and others do not."""
    _root.set(root)
    path: str = scope["path"]
    return {**scope, "path": path.removeprefix(root)} if root and path.startswith(f"{root}/") else scope


def published(address: str) -> str:
    """An internal address as callers reach it."""
    return _root.get() + address


def inner(address: str) -> str:
    """The internal address of a published one."""
    return address.removeprefix(_root.get())


def publish(headers: MutableHeaders) -> None:
    """Put the path before the addresses in an answer's headers."""
    if "Location" in headers:
        headers["Location"] = published(headers["Location"])
    if "Link" in headers:
        headers["Link"] = headers["Link"].replace("</", f"<{published('/')}", 1)
