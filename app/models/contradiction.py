"""Rules between fields are told at the field that has to change, where a form shows them."""

from typing import LiteralString

from pydantic_core import PydanticCustomError

AT = "at"
"""What such a rule says beside its code: the place of the field."""


def contradiction(code: LiteralString, message: LiteralString, *field: str | int) -> PydanticCustomError:
    return PydanticCustomError(code, message, {AT: field})
