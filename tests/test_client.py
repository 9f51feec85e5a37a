"""The client library against a served registry: nothing is lost or doubled, however bad the network is."""

import asyncio
import csv
import json
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from registry_client import (
    AsyncRegistry,
    ClientCredentials,
    Conflicting,
    Damaged,
    NotSignedIn,
    NotThere,
    Outbox,
    Password,
    Registry,
    Stale,
    Token,
    Unreachable,
    Wrong,
    new_key,
)
from registry_client.cli import app as site
from registry_client.uploads import BULK_BYTES, parts
from tests.hostile import LiveStudy, live_study
from tests.route_cases import UNDER_AGREEMENT
from tests.server import LiveServer
from tests.world import madrs


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


class Flaky(httpx.HTTPTransport):
    """Loses requests, and answers of requests that arrived."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share, self._random, self.lost = share, random.Random(5), 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        kind = self._random.random()
        if kind < self._share / 2:
            self.lost += 1
            raise httpx.ConnectError("lost on the way")
        answer = super().handle_request(request)
        if kind < self._share:
            answer.read()
            self.lost += 1
            raise httpx.ReadTimeout("the answer was lost")
        return answer


class Deaf(httpx.HTTPTransport):
    """Loses every answer."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        super().handle_request(request).read()
        raise httpx.ReadTimeout("the answer was lost")


def app_of(live: LiveStudy) -> ClientCredentials:
    client = live._made("/v1/clients", {"name": "App", "organisation": "Test"})
    grant = {"role": "site_staff", "study": live.study, "sites": [live.site]}
    live._made(f"/v1/clients/{client['client_id']}/grants", grant)
    return ClientCredentials(client["client_id"], client["client_secret"])


def registry_of(live: LiveStudy, **options: Any) -> Registry:
    return Registry(live.server.base_url, Token(live.staff.token), **options)


def event(pid: str, **changes: Any) -> dict[str, Any]:
    return {"participant": pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild", **changes}


def visit(pid: str, code: str = "BL") -> dict[str, Any]:
    return {"participant": pid, "visit_code": code, "occurred_on": "2025-01-25", "status": "completed"}


def test_a_bad_network_neither_loses_nor_doubles(live: LiveStudy) -> None:
    transport = Flaky(0.4)
    with registry_of(live, transport=transport) as registry:
        pids = [registry.post("/v1/participants", live.enrolment()).body["pid"] for _ in range(5)]
        for pid in pids:
            made = registry.post("/v1/visits", {**visit(pid), "outcomes": [madrs(2)]})
            assert made.location is not None
            assert made.etag is not None
            amended = registry.amend(made.location, made.etag, "misread", occurred_on="2025-01-26")
            assert amended.body["occurred_on"] == "2025-01-26"
            assert amended.body["version"] == 2
        told = list(registry.bulk("adverse-events", [(new_key(), event(pid)) for pid in pids * 4]))
        assert {line.result for line in told} <= {"created", "replayed"}
        for path, count in (("participants", 5), ("visits", 5), ("adverse-events", 20)):
            assert len(list(registry.pages(f"/v1/{path}", study=live.study, limit=3))) == count
    assert transport.lost > 3


def test_a_site_app_signs_in_by_itself_and_again_when_its_token_ends(live: LiveStudy) -> None:
    credentials = app_of(live)
    with Registry(live.server.base_url, credentials) as registry:
        assert registry.get("/v1/me").body["organisation"] == "Test"
        credentials._kept.access = "ended"
        assert registry.get("/v1/me").body["organisation"] == "Test"
    assert credentials.client_secret not in repr(credentials)
    with Registry(live.server.base_url, Token("ended")) as registry, pytest.raises(NotSignedIn):
        registry.get("/v1/me")
    with Registry(live.server.base_url, Password("nobody", "long enough 12")) as registry, pytest.raises(NotSignedIn):
        registry.get("/v1/me")


def test_a_person_stays_signed_in_by_the_refresh_token(live: LiveStudy) -> None:
    person = Password(live.server.admin_username, live.server.admin_password)
    with Registry(live.server.base_url, person) as registry:
        assert registry.get("/v1/me").body
        person.password, person._kept.until = "gone", 0.0
        assert registry.get("/v1/me").body


def test_a_record_that_was_entered_in_error_is_voided_as_it_was_seen(live: LiveStudy) -> None:
    with registry_of(live, transport=Flaky(0.4)) as registry:
        pid = registry.post("/v1/participants", live.enrolment()).body["pid"]
        made = registry.post("/v1/adverse-events", event(pid))
        assert made.location is not None
        assert made.etag is not None
        with pytest.raises(Stale):
            registry.void(made.location, '"old"', "of another participant")
        assert registry.void(made.location, made.etag, "of another participant").body["voiding_reason"]
        assert list(registry.pages("/v1/adverse-events", study=live.study)) == []


def test_each_refusal_is_an_error_of_its_own(live: LiveStudy) -> None:
    with registry_of(live) as registry:
        pid = registry.post("/v1/participants", live.enrolment()).body["pid"]
        made = registry.post("/v1/visits", visit(pid))
        assert made.location is not None
        with pytest.raises(Conflicting) as conflict:
            registry.post("/v1/visits", visit(pid))
        assert conflict.value.code == "visit_already_recorded"
        with pytest.raises(Wrong) as wrong:
            registry.post("/v1/visits", {**visit(pid), "occurred_on": "soon"})
        assert wrong.value.errors[0]["pointer"] == "/occurred_on"
        with pytest.raises(NotThere):
            registry.get("/v1/visits/00000000-0000-4000-8000-000000000000")
        with pytest.raises(Stale) as stale:
            registry.amend(made.location, '"old"', "misread", occurred_on="2025-01-26")
        assert stale.value.problem["differing_fields"] == ["occurred_on"]
        assert stale.value.etag == made.etag


def test_patience_ends_with_a_word() -> None:
    with Registry("http://127.0.0.1:9", Token("x"), patience=0.5) as registry, pytest.raises(Unreachable) as ended:
        registry.post("/v1/visits", {})
    assert "no answer after" in str(ended.value)


def test_an_outbox_is_sent_in_order_and_survives_the_app(live: LiveStudy, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    with Outbox(file) as box:
        person = box.add("/v1/participants", live.enrolment())
        one = box.add("/v1/visits", visit(person))
        box.add("/v1/outcomes", {"participant": person, "visit": one, **madrs(3)})
        box.add("/v1/adverse-events", event(person))
        with Registry("http://127.0.0.1:9", Token("x"), patience=0.2) as nobody:
            assert box.send(nobody) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with Outbox(file) as box, registry_of(live, transport=Flaky(0.3)) as registry:
        assert [act.state for act in box.acts()] == ["waiting"] * 4
        assert box.send(registry) == 4
        assert box.send(registry) == 0
        outcomes = list(registry.pages("/v1/outcomes", study=live.study))
        assert [one["scores"][0]["value"] for one in outcomes] == [30]


def test_an_outbox_corrects_no_version_that_nobody_here_saw(live: LiveStudy, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        made = registry.post("/v1/visits", visit(live.enrolled()))
        assert made.location
        assert made.etag
        day = box.amend(made.location, made.etag, "misread", occurred_on="2025-01-26")
        end = box.amend(made.location, day, "ended later", ended_on="2025-01-27")
        registry.amend(made.location, made.etag, "misread", occurred_on="2025-01-26", ended_on="2025-01-26")
        assert box.send(registry) == 1
        (refused,) = box.acts("refused")
        assert (f"@{refused.key}", (refused.problem or {})["differing_fields"]) == (end, ["ended_on"])
        assert registry.get(made.location).body["ended_on"] == "2025-01-26"


def test_an_outbox_whose_answer_was_lost_goes_on_from_what_it_left(live: LiveStudy, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        made = registry.post("/v1/visits", visit(live.enrolled()))
        day = box.amend(str(made.location), str(made.etag), "misread", occurred_on="2025-01-26")
        with registry_of(live, transport=Deaf(), patience=0.1) as deaf:
            assert box.send(deaf) == 0
        assert registry.get(str(made.location)).body["version"] == 2
        box.amend(str(made.location), day, "ended later", ended_on="2025-01-27")
        assert box.send(registry) == 2
        assert registry.get(str(made.location)).body["ended_on"] == "2025-01-27"


def test_what_is_refused_is_kept_until_somebody_decides(live: LiveStudy, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as box, registry_of(live) as registry:
        person = box.add("/v1/participants", live.enrolment())
        wrong = box.add("/v1/visits", {**visit(person), "occurred_on": "2025-13-45"})
        box.add("/v1/outcomes", {"participant": person, "visit": wrong, **madrs(3)})
        event_ = box.add("/v1/adverse-events", event(person, severity="none"))
        assert box.send(registry) == 1
        refused = {act.key: act for act in box.acts("refused")}
        assert refused.keys() == {wrong[1:], event_[1:]}
        assert refused[wrong[1:]].body["occurred_on"] == "2025-13-45"
        assert refused[wrong[1:]].problem == {**(refused[wrong[1:]].problem or {}), "code": "validation_failed"}
        box.mend(wrong, visit(person))
        box.discard(event_)
        assert box.send(registry) == 2
        assert {act.state for act in box.acts()} == {"stored"}
        with pytest.raises(KeyError):
            box.discard(person)


def test_changes_are_followed_from_a_place(live: LiveStudy) -> None:
    with registry_of(live) as registry:
        pid = registry.post("/v1/participants", live.enrolment()).body["pid"]
        following = registry.changes(wait=0)
        first, place = next(following)
        assert first["study"] == live.study
        registry.post("/v1/adverse-events", event(pid))
        later = [change for change, _ in zip_some(registry.changes(place, wait=1), 1)]
        assert later[-1]["subject_type"] == "adverse_event"


def zip_some(changes: Iterator[tuple[dict[str, Any], str]], count: int) -> list[tuple[dict[str, Any], str]]:
    return [change for _, change in zip(range(count), changes, strict=False)]


def test_an_extract_is_downloaded_whole_or_not_at_all(live: LiveStudy, tmp_path: Path) -> None:
    live.enrolled()
    analyst, custodian = live.caller("analyst"), live.caller("custodian")
    made = analyst.post("/v1/extracts", {**UNDER_AGREEMENT, "study": live.study}).json()
    verdict = {"decision": "approve", "reason": "agreed use"}
    assert custodian.post(f"/v1/extracts/{made['id']}/approval", verdict).status_code == 201
    heard: list[tuple[str, int, int]] = []
    with Registry(live.server.base_url, Token(analyst.token), transport=Flaky(0.2)) as registry:
        assert registry.extract(made["id"])["status"] == "ready"
        files = registry.download(made["id"], tmp_path / "got", lambda *told: heard.append(told))
        assert {file.name for file in files} >= {"outcomes.csv", "manifest.json", "bundle.zip"}
        assert all(have == whole for _, have, whole in heard if have == whole)
        assert not list((tmp_path / "got").glob("*.part"))
        names = {file.name for file in files}
        assert {file.name for file in asyncio.run(downloaded(live, analyst.token, made["id"], tmp_path))} == names
        (tmp_path / "again").mkdir()
        (tmp_path / "again" / "README.txt.part").write_bytes(b"half of another file")
        with pytest.raises(Damaged):
            registry.download(made["id"], tmp_path / "again")


async def downloaded(live: LiveStudy, token: str, extract_id: str, folder: Path) -> list[Path]:
    async with AsyncRegistry(live.server.base_url, Token(token)) as registry:
        assert (await registry.extract(extract_id))["status"] == "ready"
        return await registry.download(extract_id, folder / "async")


def test_the_same_for_asyncio(live: LiveStudy) -> None:
    async def work() -> list[str]:
        async with AsyncRegistry(live.server.base_url, Token(live.staff.token)) as registry:
            made = await asyncio.gather(*(registry.post("/v1/participants", live.enrolment()) for _ in range(4)))
            seen = [person["pid"] async for person in registry.pages("/v1/participants", study=live.study, limit=2)]
            assert sorted(seen) == sorted(answer.body["pid"] for answer in made)
            async for change, _ in registry.changes(wait=0):
                return [change["action"]]
        return []

    assert asyncio.run(work())


def of_site(live: LiveStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One site app for all commands: keys are an account's own."""
    credentials = app_of(live)
    for name, value in (
        ("URL", live.server.base_url),
        ("CLIENT_ID", credentials.client_id),
        ("CLIENT_SECRET", credentials.client_secret),
    ):
        monkeypatch.setenv(f"SITE_APP_{name}", value)


def command(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(site, list(arguments), **more)


def test_a_site_works_from_its_command_line(live: LiveStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    of_site(live, monkeypatch)
    enrolled = command("enrol", "-", input=json.dumps(live.enrolment()))
    pid = enrolled.stdout.strip()
    assert enrolled.exit_code == 0, enrolled.output
    file = tmp_path / "events.csv"
    rows = [event(pid), event(pid, severity="no such"), {**event(pid), "term": "Nausea"}]
    with file.open("w", newline="") as target:
        writer = csv.DictWriter(target, [*rows[0], "criteria.death"])
        writer.writeheader()
        writer.writerows({**row, "criteria.death": "false"} for row in rows)
    tried = command("upload", "adverse-events", str(file), "--dry-run")
    assert "2 of 3 rows are valid" in tried.stdout
    assert list(live.http.get("/v1/adverse-events", headers=signed(live)).json()["items"]) == []
    for _ in range(2):
        done = command("upload", "adverse-events", str(file))
        assert (done.exit_code, "2 of 3 rows are stored" in done.stdout) == (1, True), done.output
        assert "row 3: validation_failed: /severity" in done.stdout
    assert len(live.http.get("/v1/adverse-events", headers=signed(live)).json()["items"]) == 2
    seen = [json.loads(text) for text in command("watch", "--once").stdout.splitlines()]
    assert [change["subject_type"] for change in seen][-1] == "adverse_event"
    with Outbox(tmp_path / "box.db") as box:
        box.add("/v1/adverse-events", event(pid))
    assert "waiting" in command("outbox", str(tmp_path / "box.db")).stdout
    assert "1 stored now" in command("outbox", str(tmp_path / "box.db"), "--send").stdout
    with Outbox(tmp_path / "box.db") as box:
        box.add("/v1/adverse-events", event(pid, severity="no such"))
    monkeypatch.setattr("registry_client.cli.time.sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    watched = command("outbox", str(tmp_path / "box.db"), "--send", "--every", "60").stdout
    assert "0 stored now" in watched
    assert "validation_failed" in watched


def signed(live: LiveStudy) -> dict[str, str]:
    return {"Authorization": f"Bearer {live.staff.token}"}


def test_a_part_of_an_upload_is_no_larger_than_what_a_proxy_lets_through() -> None:
    records = [
        (str(number), {"note": "x" * size}) for number, size in enumerate([2_000] * 600 + [950_000] * 2 + [10] * 600)
    ]
    sent = list(parts(records))
    assert [record for part in sent for record in part] == records
    sizes = [sum(len(record["note"]) for _, record in part) for part in sent]
    assert [len(part) for part, size in zip(sent, sizes, strict=True) if size > BULK_BYTES] == [1, 1]
    assert len(sent) == 2 + 2 + 2
