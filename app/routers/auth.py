"""Signing in. People open a session with a password; site apps use OAuth 2.0 client credentials (RFC 6749, 4.4)."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from app.database import WriteSession
from app.errors import TooManyAttempts
from app.models.sign_in import SessionCreate, TokenRead
from app.services.identity.sign_in import KnownClient, SignIn, TokenOfAnother
from app.web.oauth import (
    NO_STORE,
    OAuthRefused,
    client_credentials,
    client_refused,
    described,
    oauth_form,
)
from app.web.route import Router

router = Router(prefix="/v1/auth", tags=["sign-in"])
OAuthForm = Annotated[Mapping[str, str], Depends(oauth_form)]


def sign_in(request: Request) -> SignIn:
    state = request.app.state
    return SignIn(state.settings, state.database, state.keyring, state.tokens, state.passwords, state.throttle)


def client_address(request: Request) -> str:
    """The address that the throttle counts by: the client's, as the trusted proxy gives it."""
    return request.client.host if request.client else ""


@router.post("/sessions", status_code=201)
def open_session(body: SessionCreate, request: Request, session: WriteSession) -> TokenRead:
    """Sign a person in."""
    service = sign_in(request)
    access, refresh = service.open_session(session, body, client_address(request))
    return TokenRead(access_token=access, expires_in=service.tokens.lifetime_seconds, refresh_token=refresh)


@router.post(
    "/token",
    openapi_extra=described("grant_type", "client_id", "client_secret", "refresh_token"),
    response_model=TokenRead,
)
def issue_token(request: Request, session: WriteSession, form: OAuthForm) -> Any:
    """Access token for a site app (`client_credentials`), or a new pair for a person's `refresh_token`.

    A site app sends its id and secret by HTTP Basic or in the form.
    """
    grant = form.get("grant_type")
    if grant is None:
        raise OAuthRefused("invalid_request")
    if grant not in {"client_credentials", "refresh_token"}:
        raise OAuthRefused("unsupported_grant_type")
    if "scope" in form:
        raise OAuthRefused("invalid_scope")
    service = sign_in(request)
    client = _client(request, form)
    if grant == "client_credentials":
        access = service.client_token(session, client) if client else None
        if access is None:
            raise client_refused()
        return _tokens(service, access)
    if "refresh_token" not in form:
        raise OAuthRefused("invalid_request")
    pair = service.refresh(session, form["refresh_token"]) if client is None else None
    return _tokens(service, *pair) if pair else OAuthRefused("invalid_grant").answer()


@router.post(
    "/revoke",
    openapi_extra=described("token", "token_type_hint", "client_id", "client_secret"),
    response_class=Response,
)
def revoke_token(request: Request, session: WriteSession, form: OAuthForm) -> Response:
    """End the session of an access or refresh token, or a site app's access token (RFC 7009).

    An unknown token is answered alike. A site app identifies itself as it does for a token.
    """
    if "token" not in form:
        raise OAuthRefused("invalid_request")
    client = _client(request, form)
    try:
        sign_in(request).revoke(session, form["token"], client)
    except TokenOfAnother:
        raise (OAuthRefused("invalid_grant") if client else client_refused()) from None
    return Response(status_code=200, headers=NO_STORE)


def _client(request: Request, form: Mapping[str, str]) -> KnownClient | None:
    """The site app that the credentials of a request prove; None when there are none."""
    given = client_credentials(request, form)
    if given is None:
        return None
    try:
        client = sign_in(request).client(*given, client_address(request))
    except TooManyAttempts as error:
        raise OAuthRefused("temporarily_unavailable", 429, error.headers) from None
    if client is None:
        raise client_refused()
    return client


def _tokens(service: SignIn, access: str, refresh: str | None = None) -> Response:
    """The token response; absent fields are left out (RFC 6749, section 5.1)."""
    made = TokenRead(access_token=access, expires_in=service.tokens.lifetime_seconds, refresh_token=refresh)
    return Response(made.model_dump_json(exclude_none=True), media_type="application/json", headers=NO_STORE)
