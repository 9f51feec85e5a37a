"""Signing in. People open a session with a password; site apps use OAuth 2.0 client credentials (RFC 6749, 4.4)."""

import base64
import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints

from app.access import Actor, Permission, requires
from app.database import ReadSession, WriteSession
from app.models.account import Account, AccountKind, MeRead
from app.models.base import Answer, Shape
from app.services.grants import grants_of
from app.services.sign_in import SignIn
from app.web.route import StrictRoute

router = APIRouter(prefix="/v1", tags=["sign-in"], route_class=StrictRoute)
Me = Annotated[Actor, Depends(requires(Permission.me_read))]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
FormText = Annotated[str | None, Form(max_length=1000)]


class SessionCreate(Shape):
    username: Text
    password: Text


class TokenRead(Answer):
    access_token: str
    token_type: str = "Bearer"
    expires_in: Annotated[int, Field(description="Seconds")]
    refresh_token: str | None = None


def _sign_in(request: Request) -> SignIn:
    state = request.app.state
    return SignIn(state.settings, state.keyring, state.tokens, state.passwords)


@router.post("/auth/sessions", status_code=201)
def open_session(body: SessionCreate, request: Request, session: WriteSession) -> TokenRead:
    """Sign a person in."""
    sign_in = _sign_in(request)
    access, refresh = sign_in.person(session, body.username, body.password)
    return TokenRead(access_token=access, expires_in=sign_in.tokens.lifetime_seconds, refresh_token=refresh)


@router.post("/auth/token", openapi_extra={"x-form": True}, response_model=TokenRead, response_model_exclude_none=True)
def issue_token(
    request: Request,
    session: WriteSession,
    grant_type: FormText = None,
    client_id: FormText = None,
    client_secret: FormText = None,
    refresh_token: FormText = None,
    authorization: Annotated[str | None, Header(max_length=2000)] = None,
) -> Any:
    """Access token for a site app (`client_credentials`), or a new pair for anybody's `refresh_token`."""
    sign_in = _sign_in(request)
    lifetime = sign_in.tokens.lifetime_seconds
    if grant_type == "client_credentials":
        name, secret = _basic(authorization) if authorization else (client_id, client_secret)
        known = bool(name and secret and name.isprintable())
        token = sign_in.client(session, name, secret) if known and name and secret else None
        if token is None:
            return _oauth_error("invalid_client", 401, 'Basic realm="registry"')
        return TokenRead(access_token=token, expires_in=lifetime)
    if grant_type == "refresh_token":
        pair = sign_in.again(session, refresh_token) if refresh_token else None
        if pair is None:
            return _oauth_error("invalid_grant")
        return TokenRead(access_token=pair[0], expires_in=lifetime, refresh_token=pair[1])
    return _oauth_error("unsupported_grant_type" if grant_type else "invalid_request")


@router.post("/auth/revoke", status_code=200, openapi_extra={"x-form": True})
def revoke_token(request: Request, session: WriteSession, token: FormText = None) -> Response:
    """End the session of a refresh token (RFC 7009). An unknown token is answered alike."""
    if token:
        _sign_in(request).revoke(session, token)
    return Response(status_code=200)


@router.get("/me")
def read_me(actor: Me, session: ReadSession) -> MeRead:
    """Who the token speaks for, and what they may do."""
    account = session.get_one(Account, actor.account_id)
    return MeRead(
        id=account.id,
        kind=AccountKind(account.kind),
        display_name=account.display_name,
        organisation=account.organisation,
        grants=grants_of(session, [account.id])[account.id],
        permissions=sorted(actor.held),
    )


def _basic(authorization: str) -> tuple[str | None, str | None]:
    """Client id and secret of HTTP Basic (RFC 7617); nothing when it is something else."""
    scheme, _, value = authorization.partition(" ")
    try:
        name, separator, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None, None
    return (name, secret) if scheme.lower() == "basic" and separator else (None, None)


def _oauth_error(code: str, status: int = 400, challenge: str | None = None) -> JSONResponse:
    """RFC 6749, section 5.2: its own shape and media type, which OAuth libraries read."""
    headers = {"WWW-Authenticate": challenge} if challenge else None
    return JSONResponse({"error": code}, status, headers)
