"""The trail is complete: the tables can be built again from it alone, column by column."""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from sqlmodel import col, select

from app.audit import plain
from app.models.account import Account, RoleGrant
from app.models.adverse_event import AdverseEvent
from app.models.audit import REGISTRY_CHAIN, AuditEntry
from app.models.base import columns, table_of
from app.models.data_lock import DataLock
from app.models.extract import Extract
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Consent, Participant
from app.models.signature import Signature
from app.models.study import ProtocolVersion, Site, Study
from app.models.verification import Verification, VerificationWithdrawal
from app.models.visit import Visit
from tests.account_cases import a_person, a_site_app
from tests.route_cases import PASSWORD, a_lock, a_signature, a_verification, an_extract, with_password
from tests.world import World, madrs

STEPS = 120
Rows = dict[tuple[str, str], dict[str, Any]]

WHO_AND_WHEN = frozenset({"created_at", "updated_at", "created_by"})
"""The entry itself says who and when."""

NOT_CARRIED: Mapping[str, frozenset[str]] = {
    "account": frozenset({"password_hash", "grants_version"}),  # a secret; a counter of changes of grants
    "extract": frozenset({"manifest"}),  # the files have checksums of their own
    "protocol_version": frozenset({"id"}),
    "role_grant": frozenset({"granted_at"}),
    "signature": frozenset({"signed_at"}),
    "site": frozenset({"id"}),
    "study": frozenset({"id"}),
}
READS = frozenset({"extract:downloaded", "request:refused"})
"""Entries that tell of no change; their `changes` say what was read or asked."""

JSON_TEXT = frozenset({"codings", "definition", "findings", "items", "scopes", "unmet_criteria"})

KEYS: Mapping[type[Any], Callable[[Any], str]] = {
    Participant: lambda row: str(row.pid),
    Consent: lambda row: f"{row.pid}/{row.version}",
    Visit: lambda row: str(row.id),
    Outcome: lambda row: str(row.id),
    AdverseEvent: lambda row: str(row.id),
    Signature: lambda row: str(row.id),
    DataLock: lambda row: str(row.id),
    Verification: lambda row: str(row.id),
    VerificationWithdrawal: lambda row: str(row.verification_id),
}


class History:
    """A random but repeatable history of one site: writes, corrections, repeats, and requests that are refused."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.people: list[str] = []
        self.paths: dict[str, list[str]] = {"visits": [], "outcomes": [], "adverse-events": []}
        self.refused = 0

    def step(self) -> None:
        staff, pick = self.world.staff_a, self.random.randrange
        if not self.people or pick(8) == 0:
            self.people.append(self.world.enrolled())
            return
        pid = self.people[pick(len(self.people))]
        act = pick(6)
        if act == 0:
            code = ("SCR", "BL", "PREP1", "UNS")[pick(4)]
            body = self.world.visit(pid, code, f"2025-01-{10 + pick(18)}", outcomes=[madrs(pick(7))])
            self._kept("visits", staff.post("/v1/visits", {**body, "deviation_reason": "as it happened"}))
        elif act == 1:
            body = self.world.event(pid, criteria={"hospitalisation": pick(2) == 1})
            self._kept("adverse-events", staff.post("/v1/adverse-events", body, key := f"key-{pick(10**9)}"))
            self._noted(staff.post("/v1/adverse-events", body, key))
        elif act == 2:
            status = ("active", "withdrawn", "completed", "screened")[pick(4)]
            body = {"status": status, "effective_on": "2025-02-01", "reason": "as told"}
            self._noted(staff.post(f"/v1/participants/{pid}/status", body))
        else:
            self._amend(pid)

    def _amend(self, pid: str) -> None:
        pick = self.random.randrange
        changes: dict[str, dict[str, Any]] = {
            "visits": {"occurred_on": f"2025-01-{10 + pick(18)}"},
            "outcomes": {"items": {"MADRS_01": pick(8)}},
            "adverse-events": {"severity": ("mild", "moderate", "severe")[pick(3)], "end": None},
            "participants": {"age_at_consent": 16 + pick(60), "race": (None, "ASIAN")[pick(2)]},
        }
        kind = sorted(changes)[pick(4)]
        paths = [f"/v1/participants/{pid}"] if kind == "participants" else self.paths[kind]
        if paths:
            path = paths[pick(len(paths))]
            seen = self.world.staff_a.get(path).headers["ETag"] if pick(5) else '"stale"'
            self._noted(self.world.staff_a.patch(path, {**changes[kind], "reason": "typed wrongly"}, seen))

    def _kept(self, kind: str, answer: Any) -> None:
        if self._noted(answer):
            self.paths[kind].append(answer.headers["Location"])
            self.paths["outcomes"] += [f"/v1/outcomes/{one['id']}" for one in answer.json().get("outcomes", [])]

    def _noted(self, answer: Any) -> bool:
        assert answer.status_code < 500, answer.text
        self.refused += not answer.is_success
        return bool(answer.is_success)


def rebuilt(world: World, chain: int) -> Rows:
    """Every record of a chain as its entries tell it; each old value is the one that stood."""
    rows: Rows = {}
    with world.registry.database.read() as session:
        told = (AuditEntry.site_id == chain, col(AuditEntry.action).not_in(READS))
        entries = select(AuditEntry).where(*told).order_by(col(AuditEntry.seq))
        for entry in session.exec(entries):
            row = rows.setdefault((entry.subject_type, entry.subject_id), {})
            for change in json.loads(entry.changes):
                assert row.get(change["field"]) == change["old"], (entry.action, change["field"])
                row[change["field"]] = change["new"]
            if json.loads(entry.changes):
                row["version"] = entry.subject_version
    return rows


def require_equal(row: Any, told: Mapping[str, Any]) -> None:
    """Every column of a row is in the trail, or in the list of those that it does not carry."""
    table = table_of(type(row))
    left_out = WHO_AND_WHEN | NOT_CARRIED.get(table.name, frozenset()) | {"site_id"}
    for column in columns(type(row)):
        if column.key in left_out:
            continue
        value = getattr(row, column.key)
        if isinstance(row, Outcome) and column.key == "items":
            assert {code: told.get(f"items.{code}") for code in json.loads(value)} == json.loads(value)
            continue
        stored = json.loads(value) if column.key in JSON_TEXT else plain(value)
        if column.key == "version" and not isinstance(value, int):
            continue  # of a consent or protocol: a name, which its subject carries
        assert told.get(column.key) == stored, f"{table.name}.{column.key}"


def test_the_clinical_tables_are_built_again_from_the_trail_alone(world: World) -> None:
    history = History(world, seed=20261123)
    for _ in range(STEPS):
        history.step()
    a_signature(world, "A")
    why = {"reason": "as it turned out"}
    for record, taken_back in ((a_lock(world, "A"), "lifting"), (a_verification(world, "A"), "withdrawal")):
        assert world.monitor.post(f"{record.headers['Location']}/{taken_back}", why).is_success
    assert history.refused > 10
    site = world.site_ids["A"]
    rows, live = rebuilt(world, site), 0
    with world.registry.database.read() as session:
        for model, key in KEYS.items():
            for row in session.exec(select(model).where(model.site_id == site)).all():
                require_equal(row, rows[table_of(model).name, key(row)])
                live += 1
        for score in session.exec(select(OutcomeScore).where(OutcomeScore.site_id == site)).all():
            assert rows["outcome", str(score.outcome_id)][f"scores.{score.name}"] == score.value
    kinds = {table_of(model).name for model in KEYS}
    assert live == sum(kind in kinds for kind, _ in rows) > 50


def test_the_registrys_own_tables_are_built_again_from_its_chain(world: World) -> None:
    person, app = a_person(world), a_site_app(world)
    seen = world.admin.get(person["path"]).headers["ETag"]
    assert world.admin.patch(person["path"], {"disabled": True, "reason": "left the team"}, seen).is_success
    grant = f"{app['path']}/grants/{app['grants'][0]['id']}/revocation"
    assert world.admin.post(grant, {"reason": "left the team"}).is_success
    with_password(world, world.custodian)
    extract = an_extract(world, approved=True).rpartition("/")[2]
    rows = rebuilt(world, REGISTRY_CHAIN)
    with world.registry.database.read() as session:
        for account in (person["id"], app["id"]):
            (stored,) = [row for row in session.exec(select(Account)).all() if str(row.id) == account]
            require_equal(stored, rows["account", account])
        grants = [
            row for row in session.exec(select(RoleGrant)).all() if str(row.account_id) in (person["id"], app["id"])
        ]
        for row in grants:
            require_equal(row, rows["role_grant", str(row.id)])
        assert len(grants) == 2
        require_equal(session.exec(select(Extract)).all()[-1], rows["extract", extract])


def test_studies_sites_and_protocols_are_built_again_from_the_registrys_chain(world: World) -> None:
    made = world.admin.post("/v1/studies", {"code": f"T-{world.study}"[:60], "title": "Another"}).json()
    site = {"code": "X", "name": "Site X", "country": "DEU", "timezone": "Europe/Berlin"}
    assert world.admin.post(f"/v1/studies/{made['code']}/sites", site).is_success
    rows = rebuilt(world, REGISTRY_CHAIN)
    with world.registry.database.read() as session:
        study = session.exec(select(Study).where(Study.code == made["code"])).one()
        require_equal(study, rows["study", study.code])
        stored = session.exec(select(Site).where(Site.study_id == study.id)).one()
        require_equal(stored, rows["site", f"{study.code}/X"])
    assert ProtocolVersion.__tablename__ in NOT_CARRIED
    assert PASSWORD not in json.dumps([*rows.values()])
