"""`registry-analyst`: an extract on one's own disk, and in the form of one's own program."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyreadstat
import pytest
from typer.testing import CliRunner

from registry_client import NotReady, Registry, Token
from registry_client.analyst_cli import app as analyst
from tests.hostile import LiveStudy, live_study
from tests.route_cases import UNDER_AGREEMENT
from tests.server import LiveServer
from tests.world import madrs

READERS = {
    "sas": ("xpt", pyreadstat.read_xport),
    "spss": ("sav", pyreadstat.read_sav),
    "stata": ("dta", pyreadstat.read_dta),
}


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def approved(live: LiveStudy, monkeypatch: pytest.MonkeyPatch) -> str:
    pid = live.enrolled()
    body = {"participant": pid, "visit_code": "BL", "status": "completed", "occurred_on": "2025-01-25"}
    assert live.staff.post("/v1/visits", {**body, "outcomes": [madrs(3)]}).is_success
    user = live.caller("analyst")
    asked = {**UNDER_AGREEMENT, "study": live.study}
    path = user.post("/v1/extracts", asked).headers["Location"]
    custodian = live.caller("custodian")
    assert custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed"}).is_success
    monkeypatch.setenv("ANALYST_URL", live.server.base_url)
    monkeypatch.setenv("ANALYST_TOKEN", user.token)
    return str(path).rpartition("/")[2]


def test_an_extract_is_fetched_and_converted_for_each_program(
    live: LiveStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, run = tmp_path / "mine", CliRunner().invoke
    fetched = run(analyst, ["fetch", approved(live, monkeypatch), str(folder)])
    assert fetched.exit_code == 0, fetched.output
    columns = json.loads((folder / "codebook.json").read_text())["columns"]
    for form, (ending, read) in READERS.items():
        assert run(analyst, ["convert", str(folder), "--to", form]).exit_code == 0
        for name in ("participants", "visits", "outcomes", "adverse_events"):
            rows, about = read(str(folder / f"{name}.{ending}"), output_format="polars")
            source = list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text())))
            labels = {one["name"]: one["label"] for one in columns if one["file"] == f"{name}.csv"}
            assert about.column_names_to_labels == labels
            found = [{key: _text(value) for key, value in row.items()} for row in rows.to_dicts()]
            assert found == [{key: _text(value) for key, value in row.items()} for row in source]


def _text(value: object) -> str:
    """Numbers as floats, whoever wrote them; what is missing as an empty text."""
    try:
        return str(float(str(value)))
    except ValueError:
        return "" if value is None else str(value)


def test_a_damaged_file_is_not_converted(live: LiveStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(analyst, ["fetch", approved(live, monkeypatch), str(tmp_path)]).exit_code == 0
    (tmp_path / "visits.csv").write_text((tmp_path / "visits.csv").read_text().replace("BL", "V9"))
    done = run(analyst, ["convert", str(tmp_path), "--to", "spss"])
    assert done.exit_code != 0
    assert "visits.csv does not have the checksum" in str(done.exception)
    assert not list(tmp_path.glob("*.sav"))


def test_without_the_extra_the_command_says_what_to_install(
    live: LiveStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = CliRunner().invoke
    assert run(analyst, ["fetch", approved(live, monkeypatch), str(tmp_path)]).exit_code == 0
    monkeypatch.setitem(sys.modules, "pyreadstat", None)
    done = run(analyst, ["convert", str(tmp_path), "--to", "spss"])
    assert (done.exit_code, "research-registry[statistics]" in done.output) == (1, True)
    assert run(analyst, ["convert", str(tmp_path), "--to", "word"]).exit_code == 2


def test_an_extract_that_is_not_ready_is_reported(
    live: LiveStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    approved(live, monkeypatch)
    user = live.caller("analyst")
    path = user.post("/v1/extracts", {**UNDER_AGREEMENT, "study": live.study}).headers
    monkeypatch.setenv("ANALYST_TOKEN", user.token)
    folder, extract = tmp_path / "none", path["Location"].rpartition("/")[2]
    done = CliRunner().invoke(analyst, ["fetch", extract, str(folder)])
    assert isinstance(done.exception, NotReady)
    assert str(done.exception) == "The extract is requested."
    with registry_of(user.token, live) as registry, pytest.raises(NotReady, match="requested"):
        registry.download(extract, folder)
    assert not folder.exists()


def test_what_is_there_is_not_fetched_again(live: LiveStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extract, fetched = approved(live, monkeypatch), list[str]()

    def noted(request: httpx.Request) -> None:
        fetched.extend([request.url.path.rpartition("/")[2]] if "/files/" in request.url.path else [])

    with registry_of(os.environ["ANALYST_TOKEN"], live, event_hooks={"request": [noted]}) as registry:
        registry.extract(extract)
        files = registry.download(extract, tmp_path)
        fetched.clear()
        (tmp_path / "visits.csv").unlink()
        (tmp_path / "outcomes.csv").write_text("of another extract")
        told: list[tuple[str, int, int]] = []
        assert registry.download(extract, tmp_path, lambda *one: told.append(one)) == files
    assert sorted(fetched) == ["outcomes.csv", "visits.csv"]
    assert {name for name, have, whole in told if have == whole} == {file.name for file in files}


def registry_of(token: str, live: LiveStudy, **options: Any) -> Registry:
    return Registry(live.server.base_url, Token(token), **options)
