"""How outward identifiers look in requests and answers."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from app import pid as codec


def _parse(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 40:
        raise PydanticCustomError("pid_format", "Must be a participant identifier such as 7K3F-9TQ2-XMEE")
    try:
        return codec.normalise(value)
    except codec.PidFormat:
        raise PydanticCustomError("pid_format", "Must be 12 symbols of Crockford base 32") from None
    except codec.PidChecksum:
        raise PydanticCustomError("pid_checksum", "The check symbols do not fit: mistyped identifier") from None


Pid = Annotated[
    str,
    BeforeValidator(_parse),
    PlainSerializer(codec.display),
    WithJsonSchema({"type": "string", "examples": ["7K3F-9TQ2-XMEE"]}),
]
"""A participant identifier in a request: read in any spelling, held as 12 symbols."""

PidShown = Annotated[
    str, PlainSerializer(codec.display), WithJsonSchema({"type": "string", "examples": ["7K3F-9TQ2-XMEE"]})
]
"""A stored identifier in an answer: shown in groups of four. It was checked when it came in."""
