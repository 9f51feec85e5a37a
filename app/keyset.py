"""The order of rows by their keys, and what lies behind a place in it."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, tuple_


def in_order(keys: Iterable[Any], ascending: bool) -> list[Any]:
    """What to order by. Of the keys none is ever null, and the last is unique."""
    return [key.asc() if ascending else key.desc() for key in keys]


def behind(keys: Sequence[Any], place: Iterable[Any], ascending: bool) -> ColumnElement[bool]:
    """Rows that come after the one with these keys (values, or parameters)."""
    here, there = tuple_(*keys), tuple_(*place, types=[key.type for key in keys])
    return here > there if ascending else here < there
