"""Corrections: the fields that were sent, merged into the record and checked by the same rules as a new one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.web.problems import validation_failed

Model = TypeVar("Model", bound=BaseModel)


def sent_fields(body: BaseModel) -> dict[str, Any]:
    """The fields of a correction as the client sent them, without the reason."""
    return body.model_dump(exclude_unset=True, exclude={"reason"})


def checked(shape: type[Model], values: Mapping[str, Any]) -> Model:
    """`values` as a whole record. Raises ValidationFailed with the rule that the correction would break."""
    try:
        return shape.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise validation_failed(found, "body") from None
