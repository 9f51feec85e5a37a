"""The examples of the published description: each request was sent and accepted, each answer is what came back."""

import json
import os
from typing import Any

import jsonschema_rs
import pytest

from tests.test_contract import Document, operations
from tests.tour import EXAMPLES, FILES, Tour, toured
from tests.world import Registry, World


@pytest.fixture(scope="module")
def document(registry: Registry) -> Document:
    published: Document = registry.client.get("/v1/openapi.json").json()
    return published


def fresh(tour: Tour, name: str, example: dict[str, Any]) -> dict[str, Any]:
    answer = {"answer": tour.shown(name)} if "answer" in example else {}
    return {"request": example["request"], **answer}


def test_every_example_is_accepted_and_answered_as_it_says(world: World) -> None:
    tour = toured(world)
    assert tour.answers.keys() == EXAMPLES.keys()
    for file, examples in FILES.items():
        written = {name: fresh(tour, name, one) for name, one in examples.items()}
        if os.environ.get("REGISTRY_UPDATE_DOCS"):
            file.write_text(json.dumps(written, indent=1) + "\n")
        assert written == json.loads(file.read_text()), "run the tests once with REGISTRY_UPDATE_DOCS=1"


def test_every_operation_with_a_body_has_an_example(document: Document) -> None:
    asked = [one["operationId"] for one in operations(document).values() if "requestBody" in one]
    assert sorted(EXAMPLES) == sorted(asked)


def test_an_example_is_published_and_fits_its_schema(document: Document) -> None:
    for operation in operations(document).values():
        name = operation["operationId"]
        for kind, contents in published(operation) if name in EXAMPLES else ():
            given = [content for content in contents.values() if "example" in content]
            assert bool(given) == (kind in EXAMPLES[name]), (name, kind)
            for content in given:
                schema = {**content["schema"], "components": document["components"]}
                jsonschema_rs.validate(schema, content["example"])


def published(operation: Document) -> list[tuple[str, Document]]:
    """What is sent and what is answered, by media type."""
    answers = operation["responses"]
    well = next((answers[status] for status in ("201", "202", "200") if status in answers), {})
    return [("request", operation["requestBody"]["content"]), ("answer", well.get("content", {}))]
