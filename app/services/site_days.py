"""Days in a request are calendar days of the site, and may not lie after its today."""

from collections.abc import Iterator
from datetime import date
from functools import cache
from typing import Any, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from app.access import Actor
from app.errors import Fault, ValidationFailed
from app.models.base import HAPPENED, latest_now
from app.models.partial_date import span
from app.protocol.clocks import local_day


def require_past(actor: Actor, site_id: int, body: BaseModel) -> None:
    """Check that no day of a body is in the future at the site. (The shape, which knows no site, allows today of the
    easternmost time zone.) Raises ValidationFailed."""
    today = local_day(latest_now(), ZoneInfo(actor.zones[site_id]))
    in_future = [pointer for pointer, day in _days(body) if day > today]
    if in_future:
        raise ValidationFailed(*(Fault(pointer, "date_in_future", "Cannot lie in the future") for pointer in in_future))


def _days(body: BaseModel, at: str = "") -> Iterator[tuple[str, date]]:
    """Each day of a body with its JSON pointer; of a partial date the earliest possible day."""
    happened = _happened(type(body))
    for name in sorted(body.model_fields_set):
        value, pointer = getattr(body, name), f"{at}/{name}"
        if name in happened:
            if value is not None:
                yield pointer, value if isinstance(value, date) else span(value).earliest
        elif isinstance(value, BaseModel):
            yield from _days(value, pointer)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _days(item, f"{pointer}/{index}")


@cache
def _happened(shape: type[BaseModel]) -> frozenset[str]:
    fields = shape.model_fields.items()
    return frozenset(name for name, field in fields if HAPPENED in field.metadata or _marked(field.annotation))


def _marked(annotation: Any) -> bool:
    return any(part is HAPPENED or _marked(part) for part in get_args(annotation))
