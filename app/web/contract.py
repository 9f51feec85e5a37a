"""The published OpenAPI description: the framework's, with refusals, permissions and sign-in added."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files
from threading import Lock
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts

from app.access import requires
from app.web.plain_schemas import make_plain

PROBLEM = "#/components/schemas/Problem"
_REFUSALS = {
    "400": "The request cannot be read, or lacks a header that it needs",
    "401": "No access token, or one that is not valid here",
    "403": "The role does not include the permission, which the document names",
    "404": "There is no such record for you",
    "409": "It contradicts what is there, or an equal request is still at work",
    "412": "The record has changed since; the answer has its present ETag and the fields that differ",
    "413": "The body is larger than the registry takes",
    "415": "The body is not JSON, or is compressed",
    "422": "A field or a query parameter breaks a rule, which `errors` names",
    "423": "What it would change is frozen or locked; the document names the lock",
    "428": "If-Match is missing",
    "429": "The account sends more requests than it may, see RateLimit-Policy; come again after Retry-After",
    "503": "The registry or its database cannot answer just now; come again after Retry-After",
    "507": "The database's disk is full; come again after Retry-After",
    "default": "Any other refusal; `code` says which, and GET /v1/problems/{code} what it means",
}
_LATER = ("429", "503", "507")
_LOCKABLE = frozenset(
    {"adverse-event:write", "dosing-session:write", "outcome:write", "participant:write", "visit:write"}
)
"""Permissions for writes that a lock may stop."""

_HEADERS = {
    "ETag": "The record's version, for the If-Match of a correction",
    "Idempotent-Replayed": "`true`: what an equal request was told before",
    "Link": "With rel=next the address of the next page, if there is one",
    "Location": "Where that which was made is read",
    "Retry-After": "After how many seconds to come again",
}
_PARAMETERS = {
    "If-Match": "The ETag of the record that is changed, as it was read",
    "cursor": "`next` of the page before, asked for with the same filters",
    "limit": "How many at most",
}
_OAUTH = {
    "type": "object",
    "description": "A refusal of the OAuth addresses (RFC 6749, section 5.2)",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
}
_FIELD = {
    "type": "object",
    "description": "What is wrong with one field",
    "required": ["pointer", "code", "message"],
    "properties": {
        "pointer": {"type": "string", "description": "JSON Pointer (RFC 6901) to the field"},
        "code": {"type": "string"},
        "message": {"type": "string"},
    },
}
_PROBLEM = {
    "type": "object",
    "description": "A refusal (RFC 9457). Some kinds have members of their own.",
    "required": ["type", "title", "status", "code", "detail", "instance", "request_id", "errors"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "code", "detail", "instance")},
        "status": {"type": "integer"},
        "request_id": {"type": ["string", "null"]},
        "errors": {"type": "array", "items": {"$ref": "#/components/schemas/FieldFault"}},
        "more_errors": {"type": "integer", "description": "How many are not in errors, which tells the first 100"},
        "differing_fields": {"type": "array", "items": {"type": "string"}},
    },
}


def describe(app: FastAPI, root_path: str) -> None:
    """Publish the description with every refusal, the permission that each route asks for, and how to sign in."""
    plain = app.openapi
    if root_path:
        app.servers = [{"url": root_path}]

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain(), dict(_permissions(app)), root_path)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
    app.add_route("/v1/openapi.json", _published(app), include_in_schema=False)


def _published(app: FastAPI) -> Callable[[Request], Response]:
    """The description, serialised once, in a thread as it takes a second, and with an ETag so that it is not sent again
    to a client that has it. Who asks meanwhile waits: until it is complete, the framework has a part of it."""
    making = Lock()

    @cache
    def written() -> tuple[bytes, str]:
        text = bytes(JSONResponse(app.openapi()).body)
        return text, f'"{sha256(text).hexdigest()[:32]}"'

    def read_description(request: Request) -> Response:
        with making:
            text, tag = written()
        headers = {"Cache-Control": "no-cache", "ETag": tag}
        known = request.headers.get("if-none-match", "")
        if known == "*" or tag in known:  # any (RFC 9110, 13.1.2), one of several perhaps, or made weak by a proxy
            return Response(status_code=304, headers=headers)
        return Response(text, headers=headers, media_type="application/json")

    return read_description


def _permissions(app: FastAPI) -> Iterator[tuple[tuple[str, str], str]]:
    for context in iter_route_contexts(app.routes):
        dependant = getattr(context.original_route, "dependant", None)
        for part in dependant.dependencies if dependant is not None else ():
            if isinstance(part.call, requires):
                yield from (
                    ((str(context.path), method.lower()), part.call.permission) for method in context.methods or ()
                )


def _completed(document: dict[str, Any], permissions: dict[tuple[str, str], str], root_path: str) -> dict[str, Any]:
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["schemas"] |= {"FieldFault": _FIELD, "OAuthError": _OAUTH, "Problem": _PROBLEM}
    sign_in = {"clientCredentials": {"tokenUrl": f"{root_path}/v1/auth/token", "scopes": {}}}
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "siteApp": {"type": "oauth2", "flows": sign_in},
    }
    examples = dict(_examples())
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
    }
    tagged = _tagged(document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, path, method, permissions.get((path, method)))
            _tell_headers(operation, tagged=(method, path) in tagged)
            _show(operation, examples.get(operation["operationId"]))
    make_plain(document)
    return document


def _examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """The examples by operation. tests/tour.py sends each of them, and writes the answers of those that show one."""
    for file in (files("app.web") / "examples").iterdir():
        yield from json.loads(file.read_text()).items()


def _show(operation: dict[str, Any], example: dict[str, Any] | None) -> None:
    """Add what was asked, and answered, once, synthetically."""
    if example is None:
        return
    _exemplify(operation["requestBody"], example["request"])
    if "answer" in example:
        answers = operation["responses"]
        _exemplify(next(answers[status] for status in ("201", "202", "200") if status in answers), example["answer"])


def _exemplify(described: dict[str, Any], shown: Any) -> None:
    for media_type, content in described["content"].items():
        if media_type != "application/problem+json":
            content["example"] = [shown] if content["schema"].get("type") == "array" else shown


def _tagged(paths: dict[str, Any]) -> set[tuple[str, str]]:
    """The operations that may answer a record with its version: those that read one, and those that act on what has
    corrections."""
    corrected = [path for path, operations in paths.items() if _takes(operations.get("patch", {}), "If-Match")]
    acts = {
        (method, path)
        for path, operations in paths.items()
        for method in operations.keys() - {"get"}
        if any(path == one.rpartition("/")[0] or f"{path}/".startswith(f"{one}/") for one in corrected)
    }
    return acts | {("get", path) for path in paths if path.endswith("}")}


def _takes(operation: dict[str, Any], parameter: str) -> bool:
    return any(one["name"] == parameter for one in operation.get("parameters", ()))


def _complete(operation: dict[str, Any], path: str, method: str, permission: str | None) -> None:
    statuses, correcting = {"default"}, _takes(operation, "If-Match")
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in _PARAMETERS:
            parameter.setdefault("description", _PARAMETERS[parameter["name"]])
        if parameter["name"] in {"Idempotency-Key", "If-Match"}:
            parameter["required"] = parameter["name"] == "If-Match" or not correcting
            parameter["schema"] = {"type": "string"}
    if correcting:
        statuses |= {"412", "428"}
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        statuses |= {"400", "413", "415", "422"}
    if _takes(operation, "cursor") or _takes(operation, "Idempotency-Key"):
        statuses |= {"400"}
    if permission is not None:
        operation["security"], operation["x-permission"] = [{"bearer": []}, {"siteApp": []}], permission
        statuses |= {"401", "403", "422", "429", "503"}
        statuses |= {"404"} if "{" in path or "requestBody" in operation else set()
        statuses |= {"409", "507"} if method != "get" else set()
        statuses |= {"423"} if method != "get" and permission in _LOCKABLE else set()
    _complete_answers(operation, statuses)


def _tell_headers(operation: dict[str, Any], *, tagged: bool) -> None:
    keyed, made = _takes(operation, "Idempotency-Key"), {"201", "202"} & operation["responses"].keys()
    described = {
        "ETag": tagged or keyed,
        "Idempotent-Replayed": keyed,
        "Link": _takes(operation, "cursor"),
        "Location": keyed or made,
    }
    of_answers = [name for name, wanted in described.items() if wanted]
    of_refusals = {"412": ["ETag"], **{status: ["Retry-After"] for status in _LATER}}
    for status, answer in operation["responses"].items():
        names = of_answers if status < "300" else of_refusals.get(status, [])
        if names:
            answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _complete_answers(operation: dict[str, Any], statuses: set[str]) -> None:
    answers, problem = operation["responses"], {"application/problem+json": {"schema": {"$ref": PROBLEM}}}
    lines = answers.pop("422", {})
    answers |= {status: {"description": _REFUSALS[status], "content": problem} for status in sorted(statuses)}
    if "application/x-ndjson" in lines.get("content", {}):
        lines["content"] |= problem  # of the whole upload, when it is no list of lines at all
        answers["422"] = lines
    if _takes(operation, "dry_run"):
        _tell_dry_run(answers)
    if "application/x-www-form-urlencoded" in operation.get("requestBody", {}).get("content", {}):
        answers["default"]["content"] |= {"application/json": {"schema": {"$ref": "#/components/schemas/OAuthError"}}}


def _tell_dry_run(answers: dict[str, Any]) -> None:
    """A correction itself answers 200, so its dry run is described in words: with a second schema every client would
    have to tell the two apart."""
    made = answers.get("201") or answers.get("202")
    if made:
        answers["200"] = {
            "description": "With dry_run: what would be answered; nothing is stored",
            "content": {"application/json": {"schema": _would(made["content"]["application/json"]["schema"])}},
        }
    elif "application/json" in answers["200"]["content"]:
        answers["200"]["description"] = (
            "The record as it is now. With dry_run: an object with `dry_run`, true, and `answer`, the record as it "
            "would be; nothing is stored"
        )


def _would(answer: dict[str, Any]) -> dict[str, Any]:
    properties = {"dry_run": {"type": "boolean", "const": True}, "answer": answer}
    name = f"{answer['$ref'].rpartition('/')[2]}DryRun"
    return {"title": name, "type": "object", "required": list(properties), "properties": properties}
