"""The examples of the published description: each request was sent and accepted, each answer is what came back."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from httpx2 import Response

from app.pid import complete, display
from tests.dosing_cases import a_session
from tests.test_contract import operations
from tests.world import Caller, World

FILE = Path(__file__).resolve().parent.parent / "app" / "web" / "examples.json"
EXAMPLES: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
STUDY, PERSON, SPARE = "mdma-mdd-demo", "7K3F-9TQ2-XMEE", display(complete("0000000001"))
VISIT, EVENT = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PID = re.compile(r"(?<![\w-])(?:[0-9A-Z]{4}-){2}[0-9A-Z]{4}(?![\w-])")
_STORED = re.compile(r'"20[0-9-]{8}T[0-9:]{8}\.[0-9]{6}Z"')
_ETAG = re.compile(r'(etag"): ?"\\"[^"\\]*\\""')
_TOKEN = re.compile(r'(access_token"): ?"[^"]+"')


class Tour:
    """The examples sent in their order, in a study of its own; what the registry draws is given fixed names."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names = {world.study: STUDY}
        self.answers: dict[str, Any] = {}

    def send(self, name: str, caller: Caller, path: str) -> Any:
        return self.heard(name, caller.post(path, self._asked(name)))

    def heard(self, name: str, answer: Response) -> Any:
        assert answer.is_success, (name, answer.text)
        self.answers[name] = answer.json()
        return answer.json()

    def _asked(self, name: str) -> Any:
        text = json.dumps(EXAMPLES[name]["request"])
        for real, shown in self.names.items():
            text = text.replace(shown, real)
        return json.loads(text)

    def shown(self, name: str) -> Any:
        """An answer with fixed names, ids and instants."""
        text = json.dumps(self.answers[name])
        for real, fixed in self.names.items():
            text = text.replace(real, fixed)
        kept = set(_ID.findall(json.dumps(EXAMPLES[name]["request"]))) | {VISIT, EVENT}
        drawn = dict.fromkeys(one for one in _ID.findall(text) if one not in kept)
        for number, one in enumerate(drawn, 3):
            text = text.replace(one, f"00000000-0000-4000-8000-00000000000{number:x}")
        text = _PID.sub(lambda found: found[0] if found[0] in {PERSON, SPARE} else PERSON, text)
        text = _STORED.sub('"2026-01-05T09:30:00.000000Z"', text)
        return json.loads(_TOKEN.sub(r'\1: "eyJhbGciOi..."', _ETAG.sub(r'\1: "\\"5f2b8c1d\\""', text)))


def toured(world: World) -> Tour:
    tour, staff = Tour(world), world.staff_a
    pids = tour.send("reserve_pids", staff, "/v1/pid-reservations")["pids"]
    tour.names |= dict(zip(pids, (PERSON, SPARE), strict=True))
    tour.send("enrol", staff, "/v1/participants")
    tour.names[tour.send("record_visit", staff, "/v1/visits")["id"]] = VISIT
    tour.send("record_outcome", staff, "/v1/outcomes")
    tour.names[tour.send("report_adverse_event", staff, "/v1/adverse-events")["id"]] = EVENT
    tour.send("record_vitals", staff, f"{a_session(world).headers['Location']}/vitals")
    tour.send("deliver", staff, "/v1/sync")
    line = json.dumps(tour._asked("upload_adverse_events")).encode()
    uploaded = staff.raw("POST", "/v1/adverse-events/bulk", line, **{"Content-Type": "application/x-ndjson"})
    tour.heard("upload_adverse_events", uploaded)
    tour.send("raise_data_query", world.monitor, "/v1/data-queries")
    tour.send("request_extract", world.analyst, "/v1/extracts")
    made = world.admin.post("/v1/clients", {"name": "App", "organisation": "Test"}).json()
    secret = (made["client_id"], made["client_secret"])
    form = EXAMPLES["issue_token"]["request"]
    tour.heard("issue_token", world.registry.client.post("/v1/auth/token", data=form, auth=secret))
    return tour


def test_every_example_is_accepted_and_answered_as_it_says(world: World) -> None:
    tour = toured(world)
    fresh = {name: {"request": one["request"], "answer": tour.shown(name)} for name, one in EXAMPLES.items()}
    if os.environ.get("REGISTRY_UPDATE_DOCS"):
        FILE.write_text(json.dumps(fresh, indent=1) + "\n")
    assert fresh == json.loads(FILE.read_text()), "run the tests once with REGISTRY_UPDATE_DOCS=1"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_published_and_fits_its_schema(world: World, name: str) -> None:
    document = world.registry.client.get("/v1/openapi.json").json()
    (operation,) = (one for one in operations(document).values() if one["operationId"] == name)
    success = next(
        answer
        for status, answer in operation["responses"].items()
        if status in {"201", "202"} or (status == "200" and "201" not in operation["responses"])
    )
    for kind, contents in (("request", operation["requestBody"]["content"]), ("answer", success["content"])):
        given = [content["example"] for content in contents.values() if "example" in content]
        assert given, kind
        for content in contents.values():
            if "example" in content:
                schema = {**content["schema"], "components": document["components"]}
                jsonschema_rs.validate(schema, content["example"])
