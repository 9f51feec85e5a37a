"""Health checks, metrics, problem pages and the public keys."""

import hmac
from typing import Any

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import SecretStr

from app.database import ReadSession
from app.errors import NotFound, every_refusal
from app.models.base import Answer
from app.services.operations.gauges import State
from app.services.operations.readiness import NotReady, readiness
from app.web import metrics
from app.web.route import Router

router = Router(tags=["health"])


class Readiness(Answer):
    status: str
    checks: dict[str, str]


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process runs. It does not ask the database."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(request: Request, session: ReadSession) -> Readiness:
    """Whether this worker can do its work: 503 `not_ready` names what it lacks."""
    checks = readiness(session, request.app.state.settings)
    lacking = sorted(name for name, well in checks.items() if not well)
    if lacking:
        raise NotReady(lacking=lacking)
    return Readiness(status="ready", checks=dict.fromkeys(checks, "ok"))


@router.get("/metrics", include_in_schema=False)
def read_metrics(request: Request) -> Response:
    """For a monitoring system with the secret of `REGISTRY_METRICS_TOKEN`; for everybody else it is not there."""
    state = request.app.state
    secret: SecretStr | None = state.settings.metrics_token
    sent = request.headers.get("authorization", "").encode()
    if secret is None or not hmac.compare_digest(sent, f"Bearer {secret.get_secret_value()}".encode()):
        raise NotFound
    text = metrics.exposition(State(state.database, state.settings.backup_folder))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/problems/{code}")
async def read_problem(code: str) -> dict[str, str | int]:
    """What a problem code means: the page behind the `type` of a problem document."""
    refusal = next((refusal for refusal in every_refusal() if refusal.code() == code), None)
    if refusal is None:
        raise NotFound
    return {"code": code, "title": refusal.title, "status": refusal.status, "detail": refusal.detail()}


@router.get("/.well-known/jwks.json")
async def jwks(request: Request) -> dict[str, Any]:
    """The public keys that verify access tokens (RFC 7517)."""
    keys: dict[str, Any] = request.app.state.tokens.jwks()
    return keys
