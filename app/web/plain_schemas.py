"""The description in a form from which clients can be generated, with the same meaning. Each object gets a name of its
own, keys of maps are described by `propertyNames`, which generators can ignore, and a union names nothing twice."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
_WIDER = {"integer": {"type": "number"}, "string": {"type": "string"}}
"""Of a type, what allows all of it."""


def make_plain(document: Schema) -> None:
    """Objects in operations that have a title become components of that name."""
    named: dict[str, Schema] = document["components"]["schemas"]
    for schema in _schemas_in(document):
        _say_once(schema)
        _name_keys(schema)
    for schema in list(_schemas_in(document["paths"])):
        if "title" in schema and "properties" in schema:
            name, whole = schema["title"], dict(schema)
            assert named.setdefault(name, whole) == whole, f"Two schemas are called {name}"
            schema.clear()
            schema["$ref"] = f"#/components/schemas/{name}"


def _schemas_in(part: Any) -> Iterator[Schema]:
    """Every object of the document, innermost first."""
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _schemas_in(inner)
    if isinstance(part, dict):
        yield part


def _say_once(schema: Schema) -> None:
    """Whole numbers beside numbers, and dates or ids beside any text, add nothing to a union."""
    members = schema.get("anyOf")
    if not isinstance(members, list):
        return
    kept = [one for one in members if (wider := _WIDER.get(one.get("type"))) == one or wider not in members]
    if len(kept) == 1:
        del schema["anyOf"]
        schema |= kept[0]
    else:
        schema["anyOf"] = kept


def _name_keys(schema: Schema) -> None:
    """A map whose keys have one form. The pattern alone would let keys of other forms through."""
    patterns = schema.get("patternProperties")
    if isinstance(patterns, dict) and len(patterns) == 1 and "properties" not in schema:
        ((pattern, value),) = schema.pop("patternProperties").items()
        schema |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
