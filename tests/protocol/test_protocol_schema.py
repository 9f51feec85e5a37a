"""The published JSON Schema of protocol files is the one of the code."""

import json
import os
from pathlib import Path
from typing import Any

from app.protocol.definition import Protocol

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol-schema.json"


def schema() -> dict[str, Any]:
    told = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Protocol.model_json_schema()}
    return told | {"title": "A protocol file of Research Registry"}


def test_the_published_schema_is_fresh() -> None:
    """With REGISTRY_UPDATE_DOCS=1 it is written anew."""
    fresh = json.dumps(schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("REGISTRY_UPDATE_DOCS") == "1":
        PAGE.write_text(fresh)
    assert PAGE.read_text() == fresh, "stale: run REGISTRY_UPDATE_DOCS=1 ./registry test tests/protocol"


def test_the_schema_refuses_unknown_keys_everywhere() -> None:
    shapes = [schema(), *schema()["$defs"].values()]
    objects = [shape for shape in shapes if shape.get("type") == "object"]
    assert len(objects) >= 25
    assert all(shape["additionalProperties"] is False for shape in objects)
