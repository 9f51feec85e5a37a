"""create_app(): routers, handlers, state. Nothing else."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import State

from app import __version__
from app.access import KnownActors
from app.database import Database
from app.database_role import require_second_wall
from app.engines import watch
from app.outages import reason
from app.privacy.erasure_journal import ErasureJournal
from app.routers import (
    accounts,
    adverse_events,
    ae_summary,
    audit_entries,
    auth,
    bulk,
    changes,
    consents,
    data_cuts,
    data_queries,
    docs,
    dosing_sessions,
    extracts,
    health,
    label_disclosures,
    locks,
    me,
    monitoring,
    outcomes,
    participants,
    pid_reservations,
    sae,
    safety_signals,
    schedules,
    screenings,
    signatures,
    studies,
    subscriptions,
    sync,
    treatments,
    verifications,
    visits,
)
from app.schema import require_head
from app.security.keys import load_keyring
from app.security.oidc import Provider
from app.security.passwords import Passwords
from app.security.tokens import TokenAuthority
from app.services.extracts.builder import Builder
from app.services.identity.outside_sign_ins import OutsideSignIns
from app.services.identity.throttle import Throttle
from app.services.trail.refusals import Refusals
from app.services.trail.waiting import Waiting
from app.settings import Settings
from app.web import contract, logs, metrics, oauth, problems, supervised, tracing
from app.web.connection import AT_STOP
from app.web.group_commit import GroupCommit
from app.web.limits import RequestLimits
from app.web.middleware import RequestFrame
from app.web.rates import Rates

ROUTERS = (
    visits,
    outcomes,
    ae_summary,
    adverse_events,
    participants,
    pid_reservations,
    changes,
    bulk,
    sync,
    dosing_sessions,
    schedules,
    consents,
    screenings,
    treatments,
    safety_signals,
    sae,
    monitoring,
    signatures,
    data_queries,
    locks,
    verifications,
    health,
    docs,
    auth,
    me,
    studies,
    accounts,
    data_cuts,
    extracts,
    label_disclosures,
    subscriptions,
    audit_entries,
)

AWAY_SECONDS, LOOK_EVERY = 15.0, 1.0
"""How long a worker waits for a database that is away, and how often it looks. With the time to be refused a connection
it has to be ready within the 30 s after which the worker that it replaces is kept."""

log = structlog.get_logger()

BROWSERS: Mapping[str, Any] = {
    "allow_methods": ["GET", "HEAD", "PATCH", "POST"],
    "allow_headers": [
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "If-Match",
        "If-Range",
        "Last-Event-ID",
        "Range",
        "X-Request-Id",
    ],
    "expose_headers": [
        "Content-Range",
        "ETag",
        "Idempotent-Replayed",
        "Link",
        "Location",
        "RateLimit",
        "RateLimit-Policy",
        "Retry-After",
        "X-Request-Id",
    ],
}
"""What pages of the allowed origins may send and read. Without credentials: no token is ever in a cookie."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application of one deployment. Raises KeysUnusable when its keys are missing or weak, and
    TracingUnavailable."""
    settings = settings or Settings()
    logs.configure(settings)
    traced = tracing.provider(settings)
    app = FastAPI(
        title="Research Registry",
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # contract.describe publishes it
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
        telemetry={
            "tracing": traced is not None,
            "tracer_provider": traced,
            "auto_configure": False,
            "metrics": False,
            "logs": False,  # these hold what was sent
        },
    )
    app.state.traced = traced
    _fill_state(app.state, settings)
    app.add_middleware(RequestLimits, settings=settings)
    app.add_middleware(RequestFrame, hsts_seconds=settings.hsts_seconds, root_path=settings.root_path)
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, **BROWSERS)
    problems.install(app)
    oauth.install(app)
    for module in ROUTERS:
        app.include_router(module.router)
    app.include_router(schedules.of_study)
    contract.describe(app, settings.root_path)
    return app


def _fill_state(state: State, settings: Settings) -> None:
    """What the requests of one worker share."""
    state.settings = settings
    state.database = Database(settings, for_server=True)
    watch(state.database.engine, metrics.CONNECTIONS.inc, metrics.CONNECTIONS.dec)
    metrics.POOLS.set(settings.pool_size)
    state.keyring = load_keyring(settings)
    state.erasures = ErasureJournal(settings.erasures, state.keyring)
    state.tokens = TokenAuthority(state.keyring, settings)
    state.provider = Provider(settings) if settings.oidc_issuer else None
    state.passwords = Passwords(settings)
    state.throttle = Throttle(state.database, state.keyring, settings)
    state.group_commit = GroupCommit(state.database)
    state.actors = KnownActors(settings.grants_cache_seconds)
    state.waiting = Waiting(state.database)
    state.rates = Rates(settings.requests_per_minute)
    state.refusals = Refusals(state.database)
    state.outside_sign_ins = OutsideSignIns(state.database, state.throttle)
    state.builder = Builder(settings, state.keyring)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    supervised.end_with_parent()
    await _require_usable(app.state.database, app.state.settings)
    app.state.builder.start()
    gc.collect()
    gc.freeze()  # what was imported and built stays: nobody looks for garbage in it
    gc.set_threshold(50_000, 20, 100)  # and a bulk upload's many small objects are not looked through again and again
    yield {AT_STOP: app.state.waiting.end}
    app.state.builder.stop()
    app.state.database.dispose()
    metrics.leave()
    if app.state.traced is not None:
        app.state.traced.shutdown()


async def _require_usable(database: Database, settings: Settings) -> None:
    """Raises CannotGoOn. A database that is away is waited for, and then served without: `/readyz` says so, and work
    goes on when it is back. `serve` has looked at more: a worker that starts while the vault is away serves all but
    labels."""
    until = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            require_head(database)
            database.require_own_sessions()
            database.require_durable()
            require_second_wall(database, settings)
            return
        except SQLAlchemyError as error:
            # its text names the host
            log.warning("database_away_at_start", kind=type(error).__name__, reason=reason(error))
        if time.monotonic() >= until:
            return
        await asyncio.sleep(LOOK_EVERY)


def _operation_id(route: APIRoute) -> str:
    return route.name
