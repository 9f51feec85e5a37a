"""Keyset pagination: the order of rows by their keys, and the rows after a given key."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, tuple_


def in_order(keys: Iterable[Any], ascending: bool) -> list[Any]:
    """The ORDER BY expressions. No key may be nullable, and the last one has to be unique."""
    return [key.asc() if ascending else key.desc() for key in keys]


def behind(keys: Sequence[Any], place: Iterable[Any], ascending: bool) -> ColumnElement[bool]:
    """The condition for rows that come after `place`, the keys of a row (values or bind parameters)."""
    here, there = tuple_(*keys), tuple_(*place, types=[key.type for key in keys])
    return here > there if ascending else here < there
