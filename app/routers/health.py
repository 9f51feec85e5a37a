"""Whether the process lives, whether it can work, and the public keys."""

from typing import Any

from fastapi import APIRouter, Request
from sqlmodel import col, select

from app.database import ReadSession
from app.errors import NotFound, every_refusal
from app.models.base import Answer
from app.models.study import Study
from app.web.route import StrictRoute

router = APIRouter(tags=["health"], route_class=StrictRoute)


class Status(Answer):
    status: str


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers. No database is asked."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(session: ReadSession) -> Status:
    """The database answers and its tables are there."""
    session.exec(select(col(Study.id)).limit(1)).first()
    return Status(status="ready")


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
