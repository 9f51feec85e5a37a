"""Identifiers as they are written in requests and answers."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema
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
"""A participant identifier in a request: read in any spelling, passed on as 12 symbols."""

PidShown = Annotated[
    str, PlainSerializer(codec.display), WithJsonSchema({"type": "string", "examples": ["7K3F-9TQ2-XMEE"]})
]
"""A stored identifier in an answer, in groups of four. It is not checked again."""

StaffCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,8}-?[0-9]{1,8}$")]
"""The site's own code of a member of staff, such as T01. It needs digits, so that initials and names do not pass."""


def _different(codes: list[str]) -> list[str]:
    if len(set(codes)) != len(codes):
        raise PydanticCustomError("repeated", "Each member of staff is named once")
    return sorted(codes)


Staff = Annotated[list[StaffCode], Field(min_length=1, max_length=20), AfterValidator(_different)]
"""The staff present, sorted by code."""
