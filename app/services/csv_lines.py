"""Whole lists as CSV, in blocks. Each block is read in a short session of its own, so that a slow reader holds no
connection."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Row, tuple_

from app.access import Rows
from app.database import Database, within

BLOCK = 1000


def blocks(
    database: Database, site_ids: Collection[int], statement: Rows, keys: Sequence[Any], ascending: bool = True
) -> Iterator[Sequence[Row[Any]]]:
    """The rows of a statement in the order of `keys`, never null, the last of them unique. `site_ids`: where the
    database lets the reader see any."""
    block, after = statement.order_by(*(key.asc() if ascending else key.desc() for key in keys)).limit(BLOCK), None
    while True:
        asked_now = block
        if after is not None:
            here, last = tuple_(*keys), tuple_(*after, types=[key.type for key in keys])
            asked_now = block.where(here > last if ascending else here < last)
        with database.read() as session, within(session, site_ids):
            rows = session.connection().execute(asked_now).all()
        yield rows
        if len(rows) < BLOCK:
            return
        after = [getattr(rows[-1], key.key) for key in keys]


def line_of(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
