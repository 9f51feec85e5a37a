"""Refusals of rules between fields, which name the field to be changed, so that a form can show them there."""

from typing import LiteralString

from pydantic_core import PydanticCustomError

AT = "at"
"""The key of the field's name in the context of such an error."""


def contradiction(code: LiteralString, message: LiteralString, *field: str | int) -> PydanticCustomError:
    return PydanticCustomError(code, message, {AT: field})
