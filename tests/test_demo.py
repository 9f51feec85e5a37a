"""`registry demo` keeps what it promises, and its extract gives the known answer."""

import csv
import hashlib
import io
import json
import math
import os
import re
import signal
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import httpx
import pytest
from scipy import stats

from app import audit
from app.database import Database
from app.demo.demo_file import Demo, DemoAccount
from app.demo.load import serious_event
from app.demo.run import FolderOccupied, known_demo
from app.demo.server import Server, ServerFailed
from app.settings import Settings
from tests.examples import printed
from tests.hostile import live_study
from tests.server import LiveServer, free_port, registry_command

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = json.loads((ROOT / "tests" / "data" / "synthetic12_expected.json").read_text())
FIGURES = EXPECTED["computed_exact"]
SCALES = [("MADRS", "madrs"), ("SHEEHAN_SDS", "sds")]
GIVEN = ROOT / "tests" / "data" / "synthetic12_madrs_sds.csv"
SITES = ["S01", "S02", "S03"]
SECONDS_TO_FIRST_ANSWER = 60


def demo_command(folder: Path, *arguments: str) -> list[str]:
    return registry_command("demo", "--data", str(folder), *arguments)


def environment() -> dict[str, str]:
    """Without a proxy, so that the pasted curl lines are exactly what they are elsewhere."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


@dataclass
class Running:
    folder: Path
    printed: str

    @property
    def file(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "demo.json").read_text()))

    @property
    def tour(self) -> str:
        return self.printed.partition("# ---- paste from here")[2].partition("# ---- to here")[0].partition("\n")[2]

    def account(self, role: str, number: int = 0, kind: str = "user") -> dict[str, Any]:
        return [one for one in self.file["accounts"] if (one["role"], one["kind"]) == (role, kind)][number]

    def get(self, account: dict[str, Any], path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {account['token']}"}
        return httpx.get(f"{self.file['base_url']}/v1/{path}", headers=headers, trust_env=False)

    def items(self, account: dict[str, Any], path: str) -> list[dict[str, Any]]:
        page = self.get(account, f"{path}?limit=500").raise_for_status().json()
        assert page["next"] is None
        return list(page["items"])

    def csv_file(self, name: str) -> list[dict[str, str]]:
        answer = self.get(self.account("analyst"), f"extracts/{self.file['extract']}/files/{name}")
        return list(csv.DictReader(io.StringIO(answer.raise_for_status().text)))


@contextmanager
def served(folder: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo that was started, up to the end of what it prints."""
    command = demo_command(folder, "--port", str(port))
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Stop with"):
                break
        try:
            yield process, "".join(lines)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One fresh demo for all tests, ended by Ctrl-C."""
    folder, port = tmp_path_factory.mktemp("demo") / "data", free_port()
    started = time.monotonic()
    with served(folder, port) as (process, printed):
        assert time.monotonic() - started < SECONDS_TO_FIRST_ANSWER
        yield Running(folder, printed)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)


def test_progress_is_shown(demo: Running) -> None:
    assert "Stored: 14 participants, 182 visits, 515 outcomes, " in demo.printed
    assert all(f"{site}: participant 1 of " in demo.printed for site in SITES)


def test_every_dosing_visit_has_its_closed_session_and_a_record_is_signed(demo: Running) -> None:
    monitor = demo.account("monitor", 1)
    sessions = demo.items(monitor, "dosing-sessions")
    assert (len(sessions), {one["state"] for one in sessions}) == (24, {"closed"})
    signed = demo.items(monitor, "signatures")
    assert [(one["meaning"], one["state"]) for one in signed] == [("approval", "valid")]


def test_signals_before_a_dose_were_reviewed_and_later_ones_wait(demo: Running) -> None:
    states = Counter(one["state"] for one in demo.items(demo.account("monitor", 1), "safety-signals"))
    assert states["reviewed"] > 0
    assert states["open"] > 0


def test_its_files_are_for_the_owner_only(demo: Running) -> None:
    assert stat.S_IMODE(demo.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in demo.folder.iterdir()} == {0o600}


def test_the_file_names_everybody_of_the_study(demo: Running) -> None:
    file = demo.file
    assert (file["study"], file["sites"]) == ("mdma-mdd-demo", SITES)
    everybody = Counter((one["role"], one["kind"], tuple(one["sites"])) for one in file["accounts"])
    assert everybody == {
        ("site_staff", "user", ("S01",)): 1,
        ("site_staff", "user", ("S02",)): 1,
        ("site_staff", "user", ("S03",)): 1,
        ("site_staff", "client", ("S01",)): 1,
        ("site_staff", "client", ("S02",)): 1,
        ("site_staff", "client", ("S03",)): 1,
        ("investigator", "user", ("S01",)): 1,
        ("monitor", "user", ("S01", "S02")): 1,
        ("monitor", "user", ("S01", "S02", "S03")): 1,
        ("analyst", "user", ()): 2,
        ("custodian", "user", ()): 2,
        ("admin", "user", ()): 1,
    }
    assert len({one["organisation"] for one in file["accounts"] if one["role"] == "analyst"}) == 2
    secrets = [one.get("password") or one["client_secret"] for one in file["accounts"]]
    assert len(set(secrets)) == len(file["accounts"])


def test_every_token_and_every_secret_works(demo: Running) -> None:
    for account in demo.file["accounts"]:
        me = demo.get(account, "me").raise_for_status().json()
        assert {grant["role"] for grant in me["grants"]} == {account["role"]}
        assert me["organisation"] == account["organisation"]
    client = demo.account("site_staff", kind="client")
    answer = httpx.post(
        f"{demo.file['base_url']}/v1/auth/token",
        data={"grant_type": "client_credentials"},
        auth=(client["client_id"], client["client_secret"]),
        trust_env=False,
    )
    assert answer.json()["expires_in"] == 43_200


def test_each_account_sees_its_own_sites(demo: Running) -> None:
    for account in demo.file["accounts"]:
        if account["sites"]:
            seen = {person["site"] for person in demo.items(account, "participants")}
            assert seen == set(account["sites"])
        else:
            assert demo.get(account, "participants").status_code == 403


def test_every_line_of_the_tour_runs_as_printed(demo: Running, tmp_path: Path) -> None:
    requests = [line for line in demo.tour.splitlines() if line.startswith("curl ")]
    assert len(requests) == 13
    variables = re.findall(r"^[A-Z]+=\S+$", demo.tour, re.MULTILINE)
    answers = []
    for request in requests:
        script = "\n".join([*variables, request])
        done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{request}\n{done.stdout}{done.stderr}"
        answers.append(done.stdout)
    read = [json.loads(text) if text.strip() else {} for text in answers]
    person, visit, morning, serious, running, report, reports, review, met, moderate, extract, _, another = read
    assert person["pid"] == visit["participant"]
    assert [score["value"] for score in visit["outcomes"][0]["scores"]] == [9]
    assert [event["term"] for event in serious["items"]] == ["Fast heartbeat"]
    (urgent,) = morning["overdue"]
    assert (urgent["code"], urgent["term"], urgent["site"]) == ("SAE-REPORT", "Fast heartbeat", "S02")
    assert urgent["adverse_event"] == serious["items"][0]["id"]
    waiting = {site["site"]: site for site in morning["sites"]}
    assert (waiting["S02"]["overdue"], waiting["S02"]["unreviewed_serious"]) == (1, 1)
    assert len(morning["safety_signals"]) == sum(site["safety_signals_open"] for site in waiting.values()) > 0
    assert [clock["state"] for clock in running["items"]] == ["overdue"]
    assert (report["number"], reports["items"]) == (1, [report])
    assert review["kind"] == "acknowledged"
    assert [clock["state"] for clock in met["items"]] == ["late"]
    assert len(moderate["items"]) == 2
    assert extract["status"] == "ready"
    assert another["status"] == "requested"
    downloaded = (tmp_path / "outcomes.csv").read_bytes()
    listed = {file["name"]: file["sha256"] for file in extract["files"]}
    assert hashlib.sha256(downloaded).hexdigest() == listed["outcomes.csv"]


def test_the_whole_tour_can_be_pasted_twice(demo: Running, tmp_path: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-e"], cwd=tmp_path, input=demo.tour, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    unscheduled = [visit for visit in demo.items(demo.account("monitor"), "visits") if visit["visit_code"] == "UNS"]
    assert len(unscheduled) == 1


def test_what_was_posted_is_there(demo: Running) -> None:
    everything = demo.account("monitor", 1)
    people = demo.items(everything, "participants")
    assert Counter(one["status"] for one in people) == {"completed": 12, "withdrawn": 1, "screen_failed": 1}
    assert [one["unmet_criteria"] for one in people if one["status"] == "screen_failed"] == [["EXCL02"]]
    visits = [one for one in demo.items(everything, "visits") if one["visit_code"] != "UNS"]
    assert Counter(one["status"] for one in visits) == {"completed": 181, "missed": 1}
    outside = [one for one in visits if one["findings"]]
    assert [(one["visit_code"], bool(one["deviation_reason"])) for one in outside] == [("FU7M", True)]
    assert demo.get(everything, f"visits/{outside[0]['id']}").json()["out_of_window"]
    events = demo.items(everything, "adverse-events")
    assert len(events) == 32
    assert [(one["term"], one["criteria"]["hospitalisation"]) for one in events if one["serious"]] == [
        ("Fast heartbeat", True)
    ]
    assert all(one["findings"] == [] for one in events)


def test_the_given_items_are_stored_as_given(demo: Running) -> None:
    rows = list(csv.DictReader(GIVEN.read_text().splitlines()))
    given = Counter(tuple(int(row[f"madrs_{number:02d}"]) for number in range(1, 11)) for row in rows)
    kept: Counter[tuple[int, ...]] = Counter()
    for code in ("BL", "PRIM"):
        page = demo.get(demo.account("monitor", 1), f"outcomes?instrument=MADRS&visit_code={code}&limit=500").json()
        kept += Counter(tuple(outcome["items"].values()) for outcome in page["items"])
    assert kept == given


def test_the_shipped_data_are_the_shared_ones() -> None:
    shipped = ROOT / "app" / "demo" / "data" / "synthetic12_madrs_sds.csv"
    assert shipped.read_bytes() == GIVEN.read_bytes()


def pairs(demo: Running, instrument: str) -> list[tuple[int, int]]:
    """Total at baseline and at the primary endpoint of everybody who has both, from the extract alone."""
    totals: dict[str, dict[str, int]] = {}
    for row in demo.csv_file("outcomes.csv"):
        if (row["instrument"], row["score"]) == (instrument, "total"):
            totals.setdefault(row["subject"], {})[row["visit_code"]] = int(row["value"])
    return [(one["BL"], one["PRIM"]) for one in totals.values() if {"BL", "PRIM"} <= one.keys()]


@pytest.mark.parametrize(("instrument", "key"), SCALES)
def test_the_extract_gives_the_known_answer(demo: Running, instrument: str, key: str) -> None:
    expected, both = FIGURES[key], pairs(demo, instrument)
    before, after = [pre for pre, _ in both], [post for _, post in both]
    changes = [post - pre for pre, post in both]
    assert (len(both), sum(before), sum(after)) == (expected["n"], expected["baseline_sum"], expected["post_sum"])
    assert sorted(changes) == sorted(expected["change_values"])
    assert mean(before) == expected["baseline_mean"]
    assert stdev(before) == pytest.approx(expected["baseline_sd"], rel=1e-12)
    assert mean(changes) == pytest.approx(expected["change_mean"], rel=1e-12)
    assert stdev(changes) / math.sqrt(len(changes)) == pytest.approx(expected["change_se"], rel=1e-12)
    assert stats.sem(changes) == pytest.approx(expected["change_se"], rel=1e-12)
    assert stats.ttest_rel(after, before).statistic == pytest.approx(expected["paired_t"], rel=1e-9)


def test_the_known_answer_is_the_published_one(demo: Running) -> None:
    published = EXPECTED["published"]
    madrs, sheehan = pairs(demo, "MADRS"), pairs(demo, "SHEEHAN_SDS")
    before = [pre for pre, _ in madrs]
    assert (round(mean(before), 1), round(stdev(before), 1)) == (29.6, 4.9)
    for both, key in ((madrs, "madrs"), (sheehan, "sds")):
        changes = [post - pre for pre, post in both]
        found = round(mean(changes), 1), round(stdev(changes) / math.sqrt(len(changes)), 1)
        assert found == (published[key]["change_mean"], published[key]["change_se"])


def test_responders_remitters_and_bands_follow_from_the_extract(demo: Running) -> None:
    both, expected = pairs(demo, "MADRS"), FIGURES["madrs"]
    assert sum(2 * post <= pre for pre, post in both) == expected["responders_ge50pct"]
    assert sum(post <= 10 for _, post in both) == expected["remitters_le10"]
    rows = [row for row in demo.csv_file("outcomes.csv") if row["instrument"] == "MADRS"]
    for code, key in (("BL", "severity_baseline"), ("PRIM", "severity_post")):
        bands = Counter(row["band"] for row in rows if row["visit_code"] == code)
        assert {band: bands[band] for band in expected[key]} == expected[key]


def test_the_extract_has_only_participants_who_share_data(demo: Running) -> None:
    people = demo.csv_file("participants.csv")
    assert Counter(row["status"] for row in people) == {"": 13}
    assert [row["serious"] for row in demo.csv_file("adverse_events.csv")].count("Y") == 1
    rows = [row for name in ("participants", "visits", "adverse_events") for row in demo.csv_file(f"{name}.csv")]
    # Subject ids are random and may hold any of these by chance.
    told = json.dumps([value for row in rows for column, value in row.items() if column != "subject"])
    assert "missed" in told
    assert not re.search(r"S0[123]|2025|telephone|Abroad", told)


@pytest.mark.parametrize("language", ["py", "R", "sql"])
def test_the_examples_for_analysts_give_the_known_answer(demo: Running, tmp_path: Path, language: str) -> None:
    outcomes = tmp_path / "outcomes.csv"
    path = f"extracts/{demo.file['extract']}/files/outcomes.csv"
    outcomes.write_bytes(demo.get(demo.account("analyst"), path).raise_for_status().content)
    found = printed(f"known_answer.{language}", outcomes)
    if found is None:
        pytest.skip("R is not installed")
    for figure in ("12", "29.6", "4.9", "-19.3", "2.4", "-11.7", "2.2"):
        assert figure in found
    page = (ROOT / "docs" / "analyst-tour.md").read_text()
    code = (ROOT / "docs" / "examples" / f"known_answer.{language}").read_text()
    if language == "sql":
        assert f"```sql\n{code.partition(chr(10) * 2)[2]}```" in page
    else:
        assert f"```text\n{found}```" in page
    if language == "py":
        code = code.partition('"""\n\n')[2]
        assert f"```python\n{code}```" in page
        assert len([line for line in code.splitlines() if line]) <= 10


def test_the_audit_trail_is_whole(demo: Running) -> None:
    settings = Settings(environment="demo", database_url=f"sqlite:///{demo.folder / 'registry.db'}")
    with Database(settings) as database, database.read() as session:
        verdicts = list(audit.verify(session))
    assert len(verdicts) == 1 + len(SITES)
    assert all(verdict.fault is None and verdict.entries > 50 for verdict in verdicts)


def test_started_again_it_takes_the_next_port_and_fresh_tokens_and_leaves_when_asked(demo: Running) -> None:
    before = demo.file
    taken = before["base_url"].rpartition(":")[2]
    command = demo_command(demo.folder, "--port", taken, "--exit")
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    again = demo.file
    (demo.folder / "demo.json").write_text(json.dumps(before))
    chosen = again["base_url"].rpartition(":")[2]
    assert f"Port {taken} is taken; using {chosen}." in done.stdout
    assert again["extract"] == before["extract"]
    assert {one["token"] for one in again["accounts"]}.isdisjoint(one["token"] for one in before["accounts"])
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{again['base_url']}/healthz", trust_env=False)
    assert all(demo.get(one, "me").is_success for one in again["accounts"])


def test_the_tour_keeps_to_its_event_when_others_are_serious_or_none_is(live_server: LiveServer) -> None:
    with live_study(live_server) as study:
        monitor = DemoAccount(role="monitor", organisation="Test", token=study.caller("monitor").token)
        demo = Demo(base_url=live_server.base_url, study=study.study, sites=["A"], extract="", accounts=[monitor])
        body = {"participant": study.enrolled(), "term": "Fast heartbeat", "onset": "2025-02-03", "severity": "severe"}
        body["criteria"] = {"hospitalisation": True}
        events = [study.staff.post("/v1/adverse-events", body) for _ in range(2)]
        own = {"id": events[0].json()["id"], "site": "A"}
        assert serious_event(demo) == own
        for event in events:
            change = {"criteria": {"hospitalisation": False}, "reason": "No night in hospital"}
            assert study.staff.patch(event.headers["Location"], change, event.headers["ETag"]).status_code == 200
        assert serious_event(demo) == own


def test_the_death_of_the_server_is_reported(tmp_path: Path) -> None:
    with Server(tmp_path, free_port()) as server:
        server.process.kill()
        with pytest.raises(ServerFailed, match="did not come up"):
            server.wait_until_ready()
        assert "stopped by itself with exit code -9" in str(server.death())


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("Mine")
    tmp_path.chmod(0o755)
    with pytest.raises(FolderOccupied):
        known_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
