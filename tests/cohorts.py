"""Made-up cohorts, stored at once and not through the API: what matters is what leaves."""

import random
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import insert
from sqlmodel import col, select

from app import pid
from app.models.adverse_event import AdverseEvent
from app.models.base import now, table_of
from app.models.consent import Consent, Withdrawal, WithdrawalScope
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Participant
from app.models.study import ProtocolVersion
from app.models.visit import Visit
from tests.world import World

VISITS = (("BL", 0), ("DOS1", 7), ("INT1A", 8))
RACES = ("WHITE", "ASIAN", "BLACK OR AFRICAN AMERICAN", "MULTIPLE", "typed in")


def alike(_: random.Random) -> dict[str, Any]:
    return {"age_at_consent": 33, "sex": "F", "race": "WHITE", "status": "completed"}


def mixed(draw: random.Random) -> dict[str, Any]:
    status = draw.choice(["completed", "active", "withdrawn", "died"])
    return {"age_at_consent": draw.randint(18, 99), "sex": draw.choice("FM"), "race": draw.choice(RACES)} | {
        "status": status
    }


def skewed(draw: random.Random) -> dict[str, Any]:
    return mixed(draw) if draw.random() < 0.05 else alike(draw)


def fill(world: World, people: int, of: Callable[[random.Random], dict[str, Any]], seed: int) -> list[str]:
    """Enrol so many people, one a minute, with visits, scores and events; gives their pids in that order."""
    draw, author = random.Random(seed), world.account().id
    with world.registry.database.read() as session:
        version = session.exec(
            select(ProtocolVersion.id).where(col(ProtocolVersion.study_id) == world.study_id)
        ).first()
    pids, begun = [pid.draw() for _ in range(people)], now() - timedelta(days=300)
    rows: dict[Any, list[dict[str, Any]]] = {
        model: [] for model in (Participant, Consent, Visit, Outcome, OutcomeScore, AdverseEvent)
    }
    for number, one in enumerate(pids):
        at, day = begun + timedelta(minutes=number), date(2025, 1, 1) + timedelta(days=number % 90)
        key = {"site_id": world.site_ids["AB"[number % 2]], "pid": one}
        kept = {**key, "version": 1, "created_by": author, "created_at": at, "updated_at": at}
        plan = {"protocol_version_id": version, "findings": "[]"}
        rows[Participant].append({**kept, **plan, **of(draw), "eligible": True, "unmet_criteria": "[]"})
        consent = {"version": "1", "given_on": day, "scopes": '["main"]', "data_sharing": True, "created_at": at}
        rows[Consent].append({**key, **consent})
        for code, after in VISITS:
            visit = {"visit_code": code, "occurrence": 1, "occurred_on": day + timedelta(days=after)}
            rows[Visit].append({**kept, **plan, "id": uuid4(), **visit, "status": "completed"})
            outcome = {"visit_id": rows[Visit][-1]["id"], "instrument": "MADRS", "instrument_version": "1"}
            rows[Outcome].append({**kept, "id": uuid4(), **outcome, "items": "{}"})
            score = {"name": "total", "value": float(draw.randint(0, 60)), "band": "mild", "rule": "MADRS/1 sum/1"}
            rows[OutcomeScore].append({"site_id": key["site_id"], "outcome_id": rows[Outcome][-1]["id"], **score})
        if draw.random() < 0.3:
            rows[AdverseEvent].append({**kept, "findings": "[]", "id": uuid4(), **_event(draw, day)})
    with world.registry.database.write() as session:
        for model, made in rows.items():
            session.execute(insert(table_of(model)), made)
    return pids


def take_back(world: World, pids: Sequence[str], seed: int) -> dict[str, date]:
    """These people take the collection of their data back, each on a day of their course; gives the days."""
    draw, author = random.Random(seed), world.account().id
    with world.registry.database.write() as session:
        theirs = select(Consent.site_id, Consent.pid, Consent.given_on).where(col(Consent.pid).in_(pids))
        given = {row.pid: row for row in session.execute(theirs)}
        days = {one: given[one].given_on + timedelta(days=draw.randint(0, 30)) for one in pids}
        said = {"scope": WithdrawalScope.collection, "reason": "had enough", "recorded_by": author, "number": 1}
        taken = [
            {"site_id": given[one].site_id, "pid": one, "effective_on": day, "recorded_at": now(), **said}
            for one, day in days.items()
        ]
        session.execute(insert(table_of(Withdrawal)), taken)
    return days


_CRITERIA = ("death", "life_threatening", "disability", "congenital_anomaly", "medically_important")


def _event(draw: random.Random, day: date) -> dict[str, Any]:
    onset = day + timedelta(days=draw.randint(0, 40))
    serious = draw.random() < 0.5
    return {
        "term": "Headache",
        "codings": "[]",
        "severity": draw.choice(["mild", "severe"]),
        "onset": onset.isoformat(),
        "onset_earliest": onset,
        "onset_latest": onset,
        **dict.fromkeys(_CRITERIA, False),
        "serious": serious,
        "hospitalisation": serious,
        "pt": draw.choice(["Headache", "Nausea"]),
    }
