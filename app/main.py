"""create_app(): routers, handlers, state. Nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app import __version__
from app.access import KnownActors
from app.database import Database
from app.database_role import require_second_wall
from app.routers import (
    accounts,
    adverse_events,
    audit_entries,
    auth,
    extracts,
    health,
    me,
    outcomes,
    participants,
    signatures,
    studies,
    subscriptions,
    visits,
)
from app.schema import require_head
from app.security.keys import load_keyring
from app.security.oidc import Provider
from app.security.passwords import Passwords
from app.security.tokens import TokenAuthority
from app.services.refusals import Refusals
from app.services.throttle import Throttle
from app.settings import Settings
from app.web import logs, oauth, problems
from app.web.middleware import RequestFrame

ROUTERS = (
    health,
    auth,
    me,
    studies,
    accounts,
    participants,
    visits,
    outcomes,
    adverse_events,
    signatures,
    extracts,
    subscriptions,
    audit_entries,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application of one deployment. Raises KeysUnusable when its keys are missing or weak."""
    settings = settings or Settings()
    logs.configure(settings)
    app = FastAPI(
        title="Research Registry",
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
        telemetry={"logs": False},
    )
    app.state.settings = settings
    app.state.database = Database(settings, for_server=True)
    app.state.keyring = load_keyring(settings)
    app.state.tokens = TokenAuthority(app.state.keyring, settings)
    app.state.provider = Provider(settings) if settings.oidc_issuer else None
    app.state.passwords = Passwords(settings)
    app.state.throttle = Throttle(app.state.database, app.state.keyring, settings)
    app.state.actors = KnownActors(settings.grants_cache_seconds)
    app.state.refusals = Refusals(app.state.database)
    app.add_middleware(RequestFrame)
    problems.install(app)
    oauth.install(app)
    for module in ROUTERS:
        app.include_router(module.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    require_head(app.state.database)
    app.state.database.require_durable()
    require_second_wall(app.state.database, app.state.settings)
    yield
    app.state.database.dispose()


def _operation_id(route: APIRoute) -> str:
    return route.name
