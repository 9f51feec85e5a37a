"""A registry to measure on: tables, accounts, and rows in bulk. Seeded rows skip the API; measured ones never do."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, text
from sqlmodel import Session

from app import pid, schema
from app.database import Database
from app.models.account import Account, AccountKind, Role, RoleGrant
from app.models.adverse_event import AdverseEvent
from app.models.base import canonical_json, now, table_of
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Consent, Participant
from app.models.study import ProtocolVersion, Site, Study
from app.models.visit import Visit
from app.security.keys import load_keyring, new_key_file, write_key_file
from app.security.tokens import TokenAuthority
from app.settings import Settings

SITES = 4
INSTRUMENTS = ("MADRS", "ISI", "GAD7")
VISITS = ("BL", "PREP1", "DOS1", "INT1A", "DOS2", "INT2A", "FU1")
BLOCK = 5_000


@dataclass(frozen=True)
class Seeded:
    """What the load needs to know of the seeded registry."""

    study: str
    site: str
    pids: list[str]
    tokens: dict[Role, str]


@dataclass(frozen=True)
class Volume:
    """How much there is of each person. Each visit has three outcomes."""

    people: int
    visits: int = 1
    events: int = 3


def seed(settings: Settings, volume: Volume) -> Seeded:
    """Migrate, and fill with this volume."""
    write_key_file(settings.key_file, new_key_file(demo=True))
    with Database(settings) as database:
        schema.upgrade(database)
        with database.write() as session:
            study, sites = _study(session)
            accounts = {role: _account(session, role, study) for role in (*Role,)}
            pids = _people(session, sites, study, volume, accounts[Role.site_staff].id)
            if not database.is_sqlite:
                session.execute(text("ANALYZE"))  # what autovacuum does a minute later
    tokens = TokenAuthority(load_keyring(settings), settings)
    issued = {role: tokens.issue(one.id, one.login, [], one.grants_version) for role, one in accounts.items()}
    return Seeded(study.code, "S0", pids, issued)


def _study(session: Session) -> tuple[Study, list[Site]]:
    plan = (files("app.protocol") / "definitions" / "protocols" / "mdma-mdd-generic-1.toml").read_text()
    study = Study(code="bench", title="A study to measure on")
    session.add(study)
    session.flush()
    assert study.id is not None
    definition = canonical_json(tomllib.loads(plan))
    session.add(ProtocolVersion(study_id=study.id, version="1", title="Generic", definition=definition))
    sites = [Site(study_id=study.id, code=f"S{number}", name=f"Site {number}") for number in range(SITES)]
    session.add_all(sites)
    session.flush()
    return study, sites


def _account(session: Session, role: Role, study: Study) -> Account:
    account = Account(kind=AccountKind.user, login=f"bench-{role}", display_name=role, organisation="Bench")
    session.add(account)
    session.flush()
    place = None if role is Role.admin else study.id
    session.add(RoleGrant(account_id=account.id, role=role, study_id=place))
    session.flush()
    return account


def _people(session: Session, sites: list[Site], study: Study, volume: Volume, author: UUID) -> list[str]:
    pids = list({pid.draw() for _ in range(volume.people)})
    kept = {"version": 1, "created_by": author, "findings": "[]"}
    at = now() - timedelta(days=1)
    kept |= {"protocol_version_id": study.id}
    rows = _rows(pids, [site.id for site in sites if site.id is not None], volume, kept, at)
    while block := list(islice(rows, BLOCK)):
        for model in (Participant, Consent, Visit, Outcome, OutcomeScore, AdverseEvent):
            chosen = [row for kind, row in block if kind is model]
            if chosen:
                session.execute(insert(table_of(model)), chosen)
    return pids


def _rows(
    pids: list[str], sites: list[int], volume: Volume, kept: dict[str, Any], at: Any
) -> Iterator[tuple[Any, Any]]:
    day = date(2025, 1, 2)
    person = {"status": "enrolled", "age_at_consent": 40, "sex": "F", "eligible": True, "unmet_criteria": "[]"}
    for number, one in enumerate(pids):
        when = at + timedelta(milliseconds=number)
        key = {"site_id": sites[number % len(sites)], "pid": one, "created_at": when}
        whole = key | kept | {"updated_at": when}
        yield Participant, whole | person
        yield Consent, key | {"version": "1", "given_on": day, "scopes": '["main"]', "data_sharing": True}
        for code in VISITS[: volume.visits]:
            visit = uuid4()
            held = {"id": visit, "visit_code": code, "occurrence": 1, "occurred_on": day, "status": "completed"}
            yield Visit, whole | held
            yield from _outcomes(key["site_id"], visit, _without(whole, "findings", "protocol_version_id"), number % 40)
        for event in range(volume.events):
            yield (
                AdverseEvent,
                _without(key | kept, "protocol_version_id") | _event(event, when + timedelta(microseconds=event)),
            )


def _outcomes(site_id: int, visit: UUID, whole: dict[str, Any], value: int) -> Iterator[tuple[Any, Any]]:
    for name in INSTRUMENTS:
        outcome = uuid4()
        row = {"id": outcome, "visit_id": visit, "instrument": name, "instrument_version": "1", "items": "{}"}
        yield Outcome, whole | row
        score = {"name": "total", "value": float(value), "band": "mild", "rule": f"{name}/1 sum/1"}
        yield OutcomeScore, {"site_id": site_id, "outcome_id": outcome, **score}


def _without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {field: value for field, value in row.items() if field not in names}


def _event(number: int, when: Any) -> dict[str, Any]:
    serious = number == 0
    return {
        "id": uuid4(),
        "created_at": when,
        "updated_at": when,
        "term": "Headache",
        "codings": "[]",
        "onset": "2025-02-03",
        "onset_earliest": date(2025, 2, 3),
        "onset_latest": date(2025, 2, 3),
        "severity": "mild",
        "death": False,
        "life_threatening": False,
        "hospitalisation": serious,
        "disability": False,
        "congenital_anomaly": False,
        "medically_important": False,
        "serious": serious,
    }
