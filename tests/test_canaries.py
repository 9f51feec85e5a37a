"""Canaries: marked identifiers are sent in good, bad and repeated requests, and searched for where they must not be."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, select
from sqlmodel import SQLModel

from tests.hostile import LiveStudy, exchange, live_study, request_text
from tests.server import LiveServer

LABEL = "CANARY-4711"
NAME, BIRTH, PHONE, MAIL = "Zzyzx Quillfeather", "31.12.1949", "017012345678", "zzyzx@quillfeather.example"
SECRETS = (LABEL, "Zzyzx", "Quillfeather", BIRTH, PHONE, "quillfeather.example")


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def spoken(live: LiveStudy) -> list[str]:
    """Every answer to requests that carry identifiers where they belong and where they do not."""
    body, key = live.enrolment(site_local_id=LABEL), str(uuid4())
    label = {"study": live.study, "site": live.site, "site_local_id": LABEL}
    post = live.staff.post
    pid = post("/v1/participants", body, key).json()["pid"]
    event = {"participant": pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
    answers = [
        post("/v1/participants", body, key),
        post("/v1/participants", body),
        post("/v1/participants", {**body, "site_local_id": LABEL.lower()}),
        post("/v1/participants", {**body, "age_at_consent": 43}, key),
        post("/v1/participants/lookup", label),
        post("/v1/participants/lookup", {**label, "site": "B"}),
        post("/v1/participants/lookup", {**label, "site_local_id": f"{LABEL} {NAME}"}),
        post("/v1/participants/lookup", {**label, "site_local_id": PHONE}),
        *(post("/v1/participants", live.enrolment(**{field: value})) for field, value in _misplaced()),
        post("/v1/adverse-events", {**event, "severity": NAME}),
        post("/v1/adverse-events", {**event, "onset": BIRTH}),
        post("/v1/adverse-events", {**event, "special_interest": LABEL}),
        post("/v1/visits", {"participant": NAME, "visit_code": LABEL, "status": MAIL}),
        post(
            "/v1/outcomes", {"participant": pid, "visit": PHONE, "instrument": LABEL, "items": {NAME: 1, LABEL: PHONE}}
        ),
        live.staff.raw("POST", "/v1/participants", json.dumps(body).encode()[:-9]),
        live.staff.raw("POST", "/v1/participants", json.dumps(body).encode(), **{"Content-Type": f"text/{PHONE}"}),
        live.staff.raw("POST", f"/v1/participants/{LABEL}/status", json.dumps({"status": NAME}).encode()),
        live.staff.get(f"/v1/participants/{LABEL}"),
        live.staff.get(f"/v1/participants/{NAME}/{PHONE}"),
        live.staff.get(f"/{MAIL}"),
        live.staff.get("/v1/participants", site_local_id=LABEL),
        live.staff.get("/v1/participants", cursor=LABEL),
        live.staff.get("/v1/adverse-events", term=NAME),
        live.staff.get("/v1/adverse-events", participant=PHONE),
        live.admin.post(f"/v1/clients/{LABEL}/grants", {"role": NAME}),
        live.http.post("/v1/auth/sessions", json={"username": MAIL, "password": NAME}),
        live.http.post(
            "/v1/auth/token", data={"grant_type": "client_credentials", "client_id": MAIL}, auth=(MAIL, NAME)
        ),
        live.http.get("/v1/participants", headers={"Authorization": f"Bearer {LABEL}", "X-Request-Id": NAME}),
        live.staff.patch(f"/v1/participants/{pid}", {"reason": "typed wrongly", NAME: LABEL}, f'"{LABEL}"'),
    ]
    wire = request_text("GET", f"/v1/visits?{LABEL}\0{PHONE}", LABEL)
    return [f"{answer.headers}{answer.text}" for answer in answers] + [exchange(live.server, wire).decode("latin-1")]


def _misplaced() -> list[tuple[str, Any]]:
    return [
        ("name", NAME),
        ("site_local_id", PHONE),
        ("site_local_id", MAIL),
        ("birth_date", BIRTH),
        ("screened_on", BIRTH),
        ("age_at_consent", PHONE),
        ("sex", NAME),
        ("planned_arm", LABEL),
        ("consent", {"version": LABEL, "given_on": BIRTH, "scopes": [NAME, MAIL]}),
        ("eligibility", {"met": False, "unmet": [LABEL]}),
        ("protocol_version", LABEL),
        (NAME, LABEL),
    ]


def database_text(server: LiveServer) -> str:
    """Everything that the database holds: the files of SQLite, every row of PostgreSQL."""
    url = make_url(server.database_url)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        file = Path(url.database)
        return "".join(part.read_bytes().decode("latin-1") for part in sorted(file.parent.glob(f"{file.name}*")))
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = [repr(row) for table in SQLModel.metadata.sorted_tables for row in connection.execute(select(table))]
    engine.dispose()
    return "\n".join(rows)


def test_identifiers_come_out_nowhere(live: LiveStudy) -> None:
    answers = spoken(live)
    assert len(answers) > 35
    for answer in answers:
        assert [secret for secret in SECRETS if secret.lower() in answer.lower()] == []
    log = live.server.log.read_text()
    assert '"event": "request"' in log
    assert [secret for secret in SECRETS if secret.lower() in log.lower()] == []
    kept = database_text(live.server)
    assert live.study in kept
    assert [secret for secret in SECRETS if secret.lower() in kept.lower()] == []


def test_the_log_has_the_route_and_neither_address_nor_query(live: LiveStudy) -> None:
    pid = live.enrolled()
    live.staff.get(f"/v1/participants/{pid}")
    live.staff.get("/v1/adverse-events", term="Rarity of one person")
    log = live.server.log.read_text()
    assert '"route": "/v1/participants/{pid}"' in log
    assert pid not in log
    assert pid.replace("-", "") not in log
    assert "Rarity" not in log
    assert live.staff.token not in log


def test_a_term_is_shown_to_the_site_that_wrote_it(live: LiveStudy) -> None:
    event = {"participant": live.enrolled(), "term": NAME, "onset": None, "severity": "mild"}
    assert live.staff.post("/v1/adverse-events", event).json()["term"] == NAME
    assert NAME not in live.server.log.read_text()
