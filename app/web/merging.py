"""Corrections: the fields that were sent, merged into the record and checked by the rules of a new one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from app.models.base import STORED
from app.web.problems import body_validated

Model = TypeVar("Model", bound=BaseModel)


def sent_fields(body: BaseModel) -> dict[str, Any]:
    """The fields of a correction as the client sent them, without the reason."""
    return body.model_dump(exclude_unset=True, exclude={"reason"})


def corrected(shape: type[Model], values: Mapping[str, Any]) -> Model:
    """A stored record with the corrections in it, whose days the body has compared with the clock. Raises
    ValidationFailed with the rule that the correction would break."""
    return checked(shape, values, STORED)


def checked(shape: type[Model], values: Mapping[str, Any], context: str | None = None) -> Model:
    """`values` checked as a whole by a shape. Raises ValidationFailed."""
    with body_validated():
        return shape.model_validate(dict(values), context=context)
