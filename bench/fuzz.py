"""`python -m bench.fuzz --examples 200`: compare every operation's answers with the published description.

Schemathesis makes valid and invalid requests from openapi.json, as each role. No answer may be a server error, and
none may have a status, a type, a header or a body that the description does not name. Afterwards every audit chain must
verify.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from app import audit
from app.database import Database
from app.services.identity.grants import SITE_ROLES
from app.settings import Settings
from tests.course_cases import TREATMENT
from tests.dosing_cases import SESSIONS, SIGNALS, dose, held, prepared, start, suicidal
from tests.hostile import LiveStudy, live_study
from tests.label_cases import asking
from tests.monitor_cases import question_about
from tests.postgres import postgres_server
from tests.route_cases import UNDER_AGREEMENT
from tests.server import LiveServer, served
from tests.world import Caller

ROLES = ("site_staff", "monitor", "analyst", "custodian", "admin")
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)
LONG = "86400"
"""A role is asked for longer than a token lives; afterwards every answer would be 401."""

STREAMS = "/v1/changes"
"""Waits for what is new, on purpose; tests/test_changes.py holds it to its description."""

AN_EVENT = {"term": "Headache", "onset": "2025-02-03", "severity": "mild"}
A_FREEZE = {"kind": "freeze", "reason": "cleaning for the interim look"}
A_WEBHOOK = {"kind": "webhook", "address": "https://receiver.example.org/", "event_types": ["extract.ready"]}


@dataclass
class Report:
    requests: int = 0
    faults: list[str] = field(default_factory=list)


def fuzz(
    server: LiveServer, folder: Path, roles: Sequence[str] = ROLES, examples: int = 20, phases: str = "coverage,fuzzing"
) -> Report:
    """So many requests of each operation as each role; `phases` are those of Schemathesis."""
    report = Report()
    with live_study(server) as live:
        ids = records(live)
        callers = {role: _caller(live, role) for role in roles}  # now: signing in is fuzzed too, and throttled then
        live.http.get("/v1/openapi.json", timeout=120)  # made now: Schemathesis waits for 10 s
        for role, caller in callers.items():
            (folder / "schemathesis.toml").write_text(_configuration(caller.token, ids))
            _run(server, folder, role, examples, phases, report)
    owner = server.environment.get("REGISTRY_OWNER_DATABASE_URL", server.database_url)
    with Database(Settings(environment="demo", database_url=owner)) as database, database.read() as session:
        report.faults += [f"chain of site {one.site_id}: {one.fault}" for one in audit.verify(session) if one.fault]
    return report


def _caller(live: LiveStudy, role: str) -> Caller:
    if role in SITE_ROLES:
        return live.caller(role, sites=[live.site])
    return live.admin if role == "admin" else live.caller(role)


def records(live: LiveStudy) -> dict[str, str]:
    """One record of each kind, so that requests come past `not_found`. Accounts are nobody's who asks; what a lock is
    on, and what raised the signal, is of somebody whom no other record is about."""
    staff, monitor, pid, study = live.staff, live.caller("monitor"), live.enrolled(), {"study": live.study}
    visit = held(staff, live.enrolled(), "BL", "2025-02-10", outcomes=[suicidal()])
    session = _made(staff, SESSIONS, start(prepared(staff, pid)["id"]))
    dosed = _made(staff, f"{SESSIONS}/{session['id']}/doses", dose())
    event = _made(staff, "/v1/adverse-events", {**AN_EVENT, "participant": pid})
    verified = {"subject_type": "adverse_event", "subject": event["id"], "version": 1, "result": "verified"}
    act = {"id": str(uuid4()), "path": "/v1/participants", "body": {}}
    staff.post("/v1/sync", {"operations": [act]})
    client = _made(live.admin, "/v1/clients", {"name": "Spare", "organisation": "Nobody"})
    path = f"/v1/clients/{client['client_id']}"
    _made(live.admin, f"{path}/grants", {**study, "role": "monitor"})
    account = live.admin.get(path).json()
    user = {
        "username": f"spare-{live.study}",
        "display_name": "P",
        "organisation": "Nobody",
        "password": "correct horse battery",
    }
    made = {
        "disclosure": _made(monitor, "/v1/label-disclosures", asking(pid)),
        "extract": _made(live.caller("analyst"), "/v1/extracts", {**UNDER_AGREEMENT, **study}),
        "lock": _made(monitor, "/v1/locks", {**study, **A_FREEZE, "participant": live.enrolled()}),
        "query": _made(monitor, "/v1/data-queries", question_about(event)),
        "reservation": _made(staff, "/v1/pid-reservations", {**study, "site": live.site, "count": 2}),
        "subscription": _made(live.admin, "/v1/subscriptions", {**study, **A_WEBHOOK}),
        "treatment": _made(staff, f"/v1/participants/{pid}/treatments", TREATMENT),
        "user": _made(live.admin, "/v1/users", user),
        "verification": _made(monitor, "/v1/verifications", verified),
        "signal": staff.get(SIGNALS, participant=visit["participant"]).json()["items"][0],
        "grant": account["grants"][0],
        "secret": account["secrets"][0],
        "dose": dosed["doses"][0],
        "reading": dosed["vitals"][0],
        "event": event,
        "operation": act,
        "outcome": visit["outcomes"][0],
        "session": session,
        "visit": visit,
    }
    ids = {f"{name}_id": record["id"] for name, record in made.items()}
    return {**ids, **study, "pid": pid, "client_id": client["client_id"], "number": "1", "version": "1"}


def _made(caller: Caller, path: str, body: Any) -> Any:
    answer = caller.post(path, body)
    assert answer.is_success, f"{path}: {answer.text}"
    return answer.json()


def _configuration(token: str, ids: dict[str, str]) -> str:
    named = "".join(f'"path.{name}" = "{value}"\n' for name, value in ids.items())
    return f'headers = {{ Authorization = "Bearer {token}" }}\n\n[parameters]\n{named}'


def _run(server: LiveServer, folder: Path, role: str, examples: int, phases: str, report: Report) -> None:
    options = ["--phases", phases, "--max-examples", str(examples), "--checks", ",".join(CHECKS), "--seed", "1"]
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.base_url}/v1/openapi.json"]
    quiet = ["--continue-on-failure", "--no-color", "--warnings", "off", "--exclude-path", STREAMS]
    environment: dict[str, Any] = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
    done = subprocess.run(
        [*command, *options, *quiet], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    counted = re.search(r"(\d+) generated", done.stdout)
    if counted is None or done.returncode not in {0, 1}:
        report.faults.append(f"{role}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return
    report.requests += int(counted[1])
    if done.returncode:
        report.faults.append(f"{role}:\n{done.stdout.partition('FAILURES')[2][:6000]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--examples", type=int, default=200, help="requests of each operation as each role")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, _served(options.engine, Path(name)) as server:
        report = fuzz(server, Path(name), examples=options.examples)
    print(f"{options.engine}: {report.requests} requests as {len(ROLES)} roles, {len(report.faults)} faults")
    print("\n".join(report.faults))
    sys.exit(1 if report.faults else 0)


@contextmanager
def _served(engine: str, folder: Path) -> Iterator[LiveServer]:
    if engine == "sqlite":
        with served(folder, None, REGISTRY_ACCESS_TOKEN_SECONDS=LONG) as server:
            yield server
        return
    with postgres_server() as url, served(folder, url, REGISTRY_ACCESS_TOKEN_SECONDS=LONG) as server:
        yield server


if __name__ == "__main__":
    main()
