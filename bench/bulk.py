"""A group of cases: a thousand visits in one request, audited and repeatable, beside PostgreSQL's COPY of such rows."""

import itertools
from datetime import UTC, date, datetime
from uuid import uuid4

import psycopg

from bench.cases import Place
from bench.ground import Ground, Group, Target, rates
from bench.measure import asked, repeated

LINES = 1_000
UPLOAD, COPY = "1,000 visits in bulk", "raw COPY of 1,000 visits"
_NAMES = (
    "site_id, id, pid, visit_code, occurrence, occurred_on, status, findings, version, created_by, created_at, "
    "updated_at"
)


def bulk(ground: Ground) -> Group:
    """One client. The floor copies the visits alone, into a table like `visit` with its checks and indexes, and
    commits: no trail, no keys for retries. Processor time is Python's: that of the server process."""
    main = ground.main
    upload = asked(UPLOAD, main.server, main.post_bulk(LINES), clients=1, into=main.settings, each=LINES)
    python = Target("bulk: Python CPU a visit, us", (UPLOAD, "server_us"), 1.0, most=50.0)
    if ground.on_sqlite:
        return Group([upload], [python])
    copied = _Copy(ground, main)
    ratio = Target("bulk: 1,000 audited visits, time / raw COPY", *rates(COPY, UPLOAD), most=5.0)
    return Group([upload, repeated(COPY, copied.once, each=LINES)], [ratio, python])


class _Copy:
    """The floor: rows of the same people into a table like the visits'."""

    def __init__(self, ground: Ground, place: Place) -> None:
        address = str(place.settings.owner_database_url).replace("postgresql+psycopg", "postgresql")
        self._connection = ground.stack.enter_context(psycopg.connect(address))
        self._connection.execute("CREATE TABLE copied_visit (LIKE visit INCLUDING ALL)")
        people = self._connection.execute("SELECT site_id, pid, created_by FROM participant").fetchall()
        self._rows = ((number, one) for number in itertools.count(1) for one in people)
        self._connection.commit()

    def once(self) -> None:
        at = datetime.now(UTC)
        with self._connection.cursor() as cursor, cursor.copy(f"COPY copied_visit ({_NAMES}) FROM STDIN") as copy:
            for _ in range(LINES):
                occurrence, (site, one, author) = next(self._rows)
                row = (site, uuid4(), one, "UNS", occurrence, date(2025, 3, 1), "completed", "[]", 1, author, at, at)
                copy.write_row(row)
        self._connection.commit()
