"""OAuth endpoints: form bodies (RFC 6749, appendix B), client credentials, and errors in OAuth's form."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
MAX_FIELD_CHARACTERS = 4096
_MAX_FIELDS = 50
_FORM = "application/x-www-form-urlencoded"
_BASIC = {"WWW-Authenticate": 'Basic realm="registry", charset="UTF-8"'}


class OAuthRefused(Exception):
    """A refusal after RFC 6749, section 5.2. Repeats nothing of what was sent."""

    def __init__(self, error: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.error, self.status, self.headers = error, status, dict(headers or {})

    def answer(self) -> JSONResponse:
        return JSONResponse({"error": self.error}, self.status, headers={**NO_STORE, **self.headers})


def client_refused() -> OAuthRefused:
    """Unknown client, wrong secret, or no credentials where some are needed."""
    return OAuthRefused("invalid_client", 401, _BASIC)


def install(app: FastAPI) -> None:
    app.add_exception_handler(OAuthRefused, _answer)


async def _answer(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OAuthRefused)
    return error.answer()


async def oauth_form(request: Request) -> Mapping[str, str]:
    """The form's fields; empty ones count as absent (RFC 6749, 3.2). Raises OAuthRefused: nothing may come twice."""
    media_type, _, _ = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != _FORM or request.query_params:
        raise OAuthRefused("invalid_request")
    try:
        text = (await request.body()).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise OAuthRefused("invalid_request") from None
    if len({name for name, _ in pairs}) != len(pairs) or not all(_acceptable(value) for _, value in pairs):
        raise OAuthRefused("invalid_request")
    return {name: value for name, value in pairs if value}


def client_credentials(request: Request, form: Mapping[str, str]) -> tuple[str, str] | None:
    """Client id and secret, by HTTP Basic or in the form, never both (RFC 6749, 2.3); None when there are none."""
    headers = request.headers.getlist("authorization")
    if not headers:
        if "client_secret" not in form:
            return None
        if "client_id" not in form:
            raise client_refused()
        return form["client_id"], form["client_secret"]
    if len(headers) > 1 or "client_secret" in form:
        raise OAuthRefused("invalid_request")
    name, secret = _basic(headers[0])
    if form.get("client_id", name) != name:
        raise OAuthRefused("invalid_request")
    return name, secret


def _basic(header: str) -> tuple[str, str]:
    """Both parts are form-encoded before they are joined (RFC 6749, 2.3.1), so that an id may contain a colon."""
    scheme, _, value = header.partition(" ")
    try:
        name, separator, secret = base64.b64decode(value, validate=True).decode().partition(":")
        name, secret = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise client_refused() from None
    if scheme.lower() != "basic" or not (separator and name and secret and _acceptable(name) and _acceptable(secret)):
        raise client_refused()
    return name, secret


def _acceptable(value: str) -> bool:
    return len(value) <= MAX_FIELD_CHARACTERS and value.isprintable()


def described(required: str, *optional: str) -> dict[str, Any]:
    """The form of an endpoint for the OpenAPI description, which also marks that it takes one."""
    properties = {name: {"type": "string"} for name in (required, *optional)}
    schema = {"type": "object", "properties": properties, "required": [required]}
    return {"x-form": True, "requestBody": {"required": True, "content": {_FORM: {"schema": schema}}}}
