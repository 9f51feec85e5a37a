"""`python -m bench.audit_writers`: audited writes per second on PostgreSQL, one writer against many, with a site for
each writer and with one site for all. Each write is one entry in a transaction of its own, appended as the services do.
"""

import argparse
import os
import threading
import time

from app import audit, schema
from app.audit import Event
from app.database import Database
from app.settings import Settings
from tests.postgres import new_database, postgres_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with postgres_server() as server, new_database(server) as url:
        settings = Settings(environment="demo", database_url=url, pool_size=options.writers)
        with Database(settings) as database:
            schema.upgrade(database)
            cases = {
                "one writer": [1],
                "a site each": list(range(1, options.writers + 1)),
                "one site": [1] * options.writers,
            }
            for _ in range(options.rounds):
                figures = {name: written(database, sites, options.seconds) for name, sites in cases.items()}
                print(", ".join(f"{name}: {figure:.0f}/s" for name, figure in figures.items()), flush=True)
            with database.read() as session:
                faults = [verdict for verdict in audit.verify(session) if verdict.fault]
            print(f"faults: {faults}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def written(database: Database, sites: list[int], seconds: float) -> float:
    """Entries per second that a writer for each of `sites` gets committed."""
    counts = [0] * len(sites)
    started = time.perf_counter()
    change = {"field": "status", "old": "planned", "new": "completed"}

    def write(number: int) -> None:
        while time.perf_counter() - started < seconds:
            with database.write() as session:
                event = Event("visit:amended", "visit", f"v{counts[number]}", 1, [change], "measured")
                audit.append(session, audit.SYSTEM, sites[number], [event])
            counts[number] += 1

    threads = [threading.Thread(target=write, args=[number]) for number in range(len(sites))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
