"""Whole lists as CSV, in blocks. Each block is read in a short session of its own, so that a slow client occupies no
connection."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Row

from app.access import Rows
from app.database import Database, within
from app.keyset import behind, in_order

BLOCK = 1000


def blocks(
    database: Database, site_ids: Collection[int], statement: Rows, keys: Sequence[Any], ascending: bool = True
) -> Iterator[Sequence[Row[Any]]]:
    """The rows of a statement in the order of `keys`, in blocks. `site_ids`: the sites that the reader may see."""
    block, after = statement.order_by(*in_order(keys, ascending)).limit(BLOCK), None
    while True:
        asked_now = block if after is None else block.where(behind(keys, after, ascending))
        with database.read() as session, within(session, site_ids):
            rows = session.connection().execute(asked_now).all()
        yield rows
        if len(rows) < BLOCK:
            return
        after = [getattr(rows[-1], key.key) for key in keys]


def lines_of(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
