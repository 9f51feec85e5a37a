"""Fill a registry for measurements: tables, accounts, and rows in bulk. These rows do not go through the API; the rows
of the measurements always do.

Run: python -m bench.seed --database-url URL    100 sites, 50,000 people, a million outcomes, a million adverse events
"""

import argparse
import tempfile
import time
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from sqlalchemy import text
from sqlmodel import Session

from app import pid, schema
from app.database import Database
from app.models.account import Account, AccountKind, Role, RoleGrant
from app.models.base import canonical_json, now
from app.models.study import ProtocolVersion, Site, Study
from app.security.keys import load_keyring, new_key_file, write_key_file
from app.security.tokens import TokenAuthority
from app.settings import Settings
from bench import seed_rows
from bench.seed_rows import INSTRUMENTS, VISITS

__all__ = ["INSTRUMENTS", "VISITS", "Seeded", "Volume", "seed"]


@dataclass(frozen=True)
class Seeded:
    """The data of the seeded registry that the load needs."""

    study: str
    site: str
    pids: list[str]
    tokens: dict[Role, str]
    staff: list[str]
    """Tokens of site staff, one for each site, in the order in which the people are distributed over the sites."""


@dataclass(frozen=True)
class Volume:
    """The number of rows for each person, and the number of sites. Each visit has three outcomes."""

    people: int
    visits: int = 1
    events: int = 3
    sites: int = 4
    remembered: bool = False
    """Each adverse event with its audit entry, in whole chains."""

    @staticmethod
    def of(rows: int, sites: int = 4) -> "Volume":
        """The volume with this number of outcomes, of adverse events and of audit entries; each person has 21 of
        each."""
        each = len(VISITS) * len(INSTRUMENTS)
        return Volume(max(1, rows // each), len(VISITS), each, sites, remembered=True)


def seed(settings: Settings, volume: Volume) -> Seeded:
    """Migrate, and fill with this volume."""
    write_key_file(settings.key_file, new_key_file(demo=True))
    with Database(settings) as database:
        schema.upgrade(database)
        with database.write() as session:
            study, sites = _study(session, volume.sites)
            accounts = {role: _account(session, role, study) for role in (*Role,)}
            staff = [_account(session, Role.site_staff, study, site) for site in sites]
        pids = list({pid.draw() for _ in range(volume.people)})
        author = accounts[Role.site_staff].id
        kept = seed_rows.Kept(sites, study, author, now() - timedelta(days=1))
        with database.migrating() as connection:
            seed_rows.fill(connection, kept, pids, volume.visits, volume.events)
            if volume.remembered:
                seed_rows.remember_events(connection, author)
        if not database.is_sqlite:
            with database.migrating() as connection:
                connection.execute(text("ANALYZE"))  # what autovacuum does a minute later
            with database.engine.connect() as connection:
                connection.execute(text("CHECKPOINT"))  # or it would fall into the measurement
    tokens = TokenAuthority(load_keyring(settings), settings)

    def issued(one: Account) -> str:
        return tokens.issue(one.id, one.login, [], one.grants_version)

    of_roles = {role: issued(one) for role, one in accounts.items()}
    return Seeded("bench", "S0", pids, of_roles, [issued(one) for one in staff])


def _study(session: Session, number_of_sites: int) -> tuple[int, list[int]]:
    plan = (files("app.protocol") / "definitions" / "protocols" / "mdma-mdd-generic-1.toml").read_text()
    study = Study(code="bench", title="A study to measure on")
    session.add(study)
    session.flush()
    assert study.id is not None
    definition = canonical_json(tomllib.loads(plan))
    session.add(ProtocolVersion(study_id=study.id, version="1", title="Generic", definition=definition))
    sites = [Site(study_id=study.id, code=f"S{number}", name=f"Site {number}") for number in range(number_of_sites)]
    session.add_all(sites)
    session.flush()
    return study.id, [site.id for site in sites if site.id is not None]


def _account(session: Session, role: Role, study_id: int, site_id: int | None = None) -> Account:
    login = f"bench-{role}-{site_id or 'all'}"
    account = Account(kind=AccountKind.user, login=login, display_name=role, organisation="Bench")
    session.add(account)
    session.flush()
    place = None if role is Role.admin else study_id
    session.add(RoleGrant(account_id=account.id, role=role, study_id=place, site_id=site_id))
    session.flush()
    return account


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", required=True, help="an empty database, as its owner")
    parser.add_argument("--rows", type=int, default=1_050_000, help="outcomes, and as many adverse events")
    parser.add_argument("--sites", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(environment="demo", database_url=options.database_url, key_file=Path(folder) / "keys.json")
        started = time.perf_counter()
        seeded = seed(settings, Volume.of(options.rows, options.sites))
        print(f"{len(seeded.pids)} people at {options.sites} sites in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
