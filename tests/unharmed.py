"""Checks that clients which disconnected did no harm."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import create_engine, func, select, text
from sqlmodel import col

from app.models.audit import AuditEntry
from app.models.idempotency import IdempotencyRecord
from app.models.visit import Visit
from app.pid import normalise
from tests.hostile import LiveStudy
from tests.route_cases import UNDER_AGREEMENT
from tests.server import LiveServer
from tests.world import Caller

POOL_SIZE = 4


def require_unharmed(live: LiveStudy) -> None:
    """The process lives, answers more requests at once than the pool has connections, and holds none afterwards."""
    assert live.server.process.poll() is None
    assert live.http.get("/readyz").status_code == 200
    with ThreadPoolExecutor(POOL_SIZE + 2) as threads:
        reads = threads.map(lambda _: live.staff.get("/v1/visits").status_code, range(POOL_SIZE + 2))
        assert set(reads) == {200}
        assert len(set(threads.map(lambda _: live.enrolled(), range(POOL_SIZE + 2)))) == POOL_SIZE + 2
    assert idle_in_transaction(live.server) == 0


def idle_in_transaction(server: LiveServer) -> int:
    """Connections of this database that hold a transaction open, a moment after the last answer."""
    if not server.database_url.startswith("postgresql"):
        return 0
    engine = create_engine(server.database_url, isolation_level="AUTOCOMMIT")  # a transaction sees one moment of these
    states = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
    )
    try:
        with engine.connect() as connection:
            for _ in range(20):
                left = int(connection.execute(states).scalar_one())
                if left == 0:
                    return 0
                time.sleep(0.1)
            return left
    finally:
        engine.dispose()


def stored(live: LiveStudy, pid: str) -> dict[str, int]:
    """What the database holds of a participant's unscheduled visits."""
    engine = create_engine(live.server.database_url)
    visits = select(col(Visit.id)).where(col(Visit.pid) == normalise(pid))
    with engine.connect() as connection:
        ids = [str(visit) for visit in connection.execute(visits).scalars()]
        entries = select(func.count()).where(
            col(AuditEntry.subject_id).in_(ids), col(AuditEntry.action) == "visit:recorded"
        )
        records = select(func.count()).where(col(IdempotencyRecord.location).in_([f"/v1/visits/{one}" for one in ids]))
        open_records = select(func.count()).where(col(IdempotencyRecord.status) == 0)
        found = {
            "visits": len(ids),
            "entries": int(connection.scalar(entries) or 0),
            "records": int(connection.scalar(records) or 0),
            "unanswered": int(connection.scalar(open_records) or 0),
        }
    engine.dispose()
    return found


def visit_body(pid: str, occurrence: int) -> dict[str, Any]:
    return {
        "participant": pid,
        "visit_code": "UNS",
        "occurrence": occurrence,
        "occurred_on": "2025-02-01",
        "status": "completed",
    }


def extract_of(live: LiveStudy) -> tuple[Caller, str]:
    """An approved extract of the study, and its recipient."""
    live.enrolled()
    analyst, custodian = live.caller("analyst"), live.caller("custodian")
    asked = analyst.post("/v1/extracts", {**UNDER_AGREEMENT, "study": live.study})
    path: str = asked.headers["Location"]
    assert custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"}).status_code == 201
    while analyst.get(path).json()["status"] == "building":
        time.sleep(0.05)
    return analyst, path
