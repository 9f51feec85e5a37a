"""The published description is a reviewed file, and what the registry answers is what it says."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi.testclient import TestClient
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from app.main import create_app
from app.models.account import Role
from app.web import contract
from tests.ready import Requests
from tests.route_cases import CASES, PUBLIC, Route
from tests.test_permissions import MATRIX, caller_of
from tests.world import Registry, World

FILE = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def document(registry: Registry) -> Document:
    published: Document = registry.client.get("/v1/openapi.json").json()
    return published


def operations(document: Document) -> dict[Route, Document]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_what_a_dry_run_answers_is_described_wherever_there_is_one(document: Document) -> None:
    asked = [
        operation["responses"]
        for operation in operations(document).values()
        if any(one["name"] == "dry_run" for one in operation.get("parameters", ()))
    ]
    assert len(asked) > 20
    assert [answers for answers in asked if "dry_run" not in answers["200"]["description"]] == []


def test_the_committed_description_is_the_published_one(document: Document) -> None:
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if os.environ.get("REGISTRY_UPDATE_DOCS"):
        FILE.write_text(text)
    assert FILE.read_text() == text, "run the tests once with REGISTRY_UPDATE_DOCS=1"


def test_every_operation_has_a_name_of_its_own_and_lists_its_refusals(document: Document) -> None:
    found = operations(document)
    names = [operation["operationId"] for operation in found.values()]
    assert len(names) == len(set(names))
    for route, operation in found.items():
        of_oauth = {"application/json"} if route[1] in {"/v1/auth/token", "/v1/auth/revoke"} else set()
        assert operation["responses"]["default"]["content"].keys() == {"application/problem+json"} | of_oauth, route
        assert ("security" in operation) == (route not in PUBLIC), route
        if route not in PUBLIC:
            assert {"401", "403", "422"} <= operation["responses"].keys(), route
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            assert {"400", "413", "415", "422"} <= operation["responses"].keys(), route


def test_a_download_of_json_is_not_described_as_a_text(document: Document) -> None:
    download = document["paths"]["/v1/extracts/{extract_id}/files/{name}"]["get"]["responses"]["200"]["content"]
    schemas = [download[kind]["schema"] for kind in ("application/json", "text/csv")]
    assert schemas == [{}, {"type": "string"}]


def test_the_end_of_a_token_is_answered_without_a_body(document: Document) -> None:
    assert "content" not in document["paths"]["/v1/auth/revoke"]["post"]["responses"]["200"]


def test_no_reference_leads_nowhere(document: Document) -> None:
    text = json.dumps(document)
    for part in text.split('"$ref": "')[1:]:
        place: Any = document
        for name in part.partition('"')[0].removeprefix("#/").split("/"):
            place = place[name]


@pytest.fixture(scope="module")
def requests(registry: Registry) -> Requests:
    return Requests(World(registry))


def schemas(part: Any) -> Iterator[Document]:
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from schemas(inner)
    if isinstance(part, dict):
        yield part


def test_clients_can_be_generated_from_it(document: Document) -> None:
    """What others' generators stumble over; `python -m bench.generated_clients` runs two of them."""
    flow = document["components"]["securitySchemes"]["siteApp"]["flows"]["clientCredentials"]
    flow["tokenUrl"] = "https://registry.example.org/v1/auth/token"  # may be relative, though not in the schema of 3.1
    OPENAPI_31_VALIDATOR.validate(document)
    named = document["components"]["schemas"]
    names = [*named, *(operation["operationId"] for operation in operations(document).values())]
    assert [name for name in names if not name.isidentifier() or "__" in name] == []
    for schema in schemas(document):
        assert "patternProperties" not in schema
        members = schema.get("anyOf", [])
        assert not ({"type": "number"} in members and {"type": "integer"} in members), schema
    objects = [one for one in schemas(document["paths"]) if "properties" in one]
    forms = [one for one in objects if {"grant_type", "token"} & one["properties"].keys()]
    assert objects == forms, "give it a title: it becomes a component of that name"


def test_bounds_are_published_as_json_schema(document: Document) -> None:
    assert [schema for schema in schemas(document) if {"ge", "gt", "le", "lt"} & schema.keys()] == []
    (limit,) = (one for one in document["paths"]["/v1/visits"]["get"]["parameters"] if one["name"] == "limit")
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"]) == (1, 500)


def test_the_description_says_what_a_field_means(document: Document) -> None:
    fields = [document["components"]["schemas"][name]["properties"] for name in ("VisitDetail", "StatusChange")]
    assert "negative early" in fields[0]["deviation_days"]["description"]
    assert "by mistake" in fields[1]["correction"]["description"]
    (wait,) = (one for one in document["paths"]["/v1/changes"]["get"]["parameters"] if one["name"] == "wait")
    assert wait["description"].startswith("Seconds to wait")


@pytest.mark.by_turns
@pytest.mark.parametrize("route", CASES, ids=" ".join)
def test_an_answer_is_one_of_those_described(requests: Requests, route: Route, document: Document) -> None:
    """Asked by somebody who may not, and by somebody who may."""
    described = operations(document)[route]["responses"]
    answers = [
        requests.refused(route, caller_of(requests.world, role)) for role in sorted(set(Role) - MATRIX[route])[:1]
    ]
    answers.append(requests.admitted(route, caller_of(requests.world, min(MATRIX[route]))))
    assert answers[-1].is_success
    for answer in answers:
        told = described.get(str(answer.status_code), described["default"])
        assert answer.is_success or "application/problem+json" in told["content"]
        assert bool(answer.content) == ("content" in told), (route, answer.status_code)
        if answer.content:
            assert answer.headers["Content-Type"].partition(";")[0] in told["content"], (route, answer.status_code)
        if answer.is_success:
            assert str(answer.status_code) in described, (route, answer.status_code)
        headers = {name.lower() for name in told.get("headers", {})}
        assert answer.headers.keys() & NAMED <= headers, (route, answer.status_code)


NAMED = {"etag", "idempotent-replayed", "link", "location", "retry-after"}


def test_a_description_that_is_being_made_holds_nobody_up(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second of a worker's processor the first time, and more where that is busy. Who asks for it meanwhile
    gets the whole, too."""
    app, asked, allowed = create_app(registry.app.state.settings), Event(), Event()
    completed = contract._completed

    def slowly(*given: Any) -> Document:
        asked.set()
        assert allowed.wait(60)
        return completed(*given)

    monkeypatch.setattr(contract, "_completed", slowly)
    with TestClient(app) as client, ThreadPoolExecutor() as others:
        told = others.submit(client.get, "/v1/openapi.json")
        assert asked.wait(60)
        alive, other = (others.submit(client.get, path) for path in ("/healthz", "/v1/openapi.json"))
        done, _ = wait([alive], timeout=20)
        wait([other], timeout=1)
        allowed.set()
        assert (alive in done, told.result().status_code) == (True, 200)
        assert other.result().text == told.result().text
