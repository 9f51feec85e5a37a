"""Which routes store something, read from what they ask for."""

from collections.abc import Iterator

from fastapi.routing import iter_route_contexts

from app import database as sessions
from app.web import group_commit
from tests.route_cases import Route
from tests.world import Registry

COMMITTING = {sessions._write_session, group_commit._group_commit}
"""What routes ask for that store something."""


def writing_routes(registry: Registry) -> Iterator[Route]:
    """Every route whose signature takes a transaction that commits."""
    for context in iter_route_contexts(registry.app.routes):
        dependant = getattr(context.original_route, "dependant", None)
        if dependant and any(part.call in COMMITTING for part in dependant.dependencies):
            yield from ((method, context.path) for method in context.methods)
