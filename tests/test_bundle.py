"""The bundle of an extract: every table twice, one zip, checksums that fit, and parts of a file on request."""

import base64
import csv
import hashlib
import io
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response

from app.models.extract import ExtractProfile
from app.privacy import bundle
from app.privacy.profile import PROFILES, Column
from tests.route_cases import an_extract
from tests.world import World, madrs

TABLES = ("participants", "visits", "outcomes", "adverse_events")
ORIGIN = bundle.Origin("S1", "e1", "2026-01-01T00:00:00.000000Z", "0.1.0")
COLUMNS = PROFILES[ExtractProfile.deidentified].files["outcomes.csv"]
ROW: tuple[Any, ...] = ("9ABC", "BL", 1, "in_window", "MADRS", "1", "total", 30.0, "moderate", "items")


@pytest.fixture
def path(world: World) -> str:
    """An approved extract with a score and an event."""
    pid = world.enrolled()
    assert world.staff_a.post("/v1/visits", world.visit(pid, "BL", "2025-01-25", outcomes=[madrs(3)])).is_success
    assert world.staff_a.post("/v1/adverse-events", world.event(pid)).is_success
    return an_extract(world, approved=True)


def part(world: World, path: str, headers: dict[str, str]) -> Response:
    return world.analyst.raw("GET", f"{path}/files/outcomes.csv", b"", **headers)


def content(world: World, path: str, name: str) -> bytes:
    answer = world.analyst.get(f"{path}/files/{name}")
    assert answer.is_success, answer.text
    return bytes(answer.content)


def written(value: Any) -> str:
    """A JSON value as the CSV file has it."""
    return {None: "", True: "Y", False: "N"}[value] if value is None or isinstance(value, bool) else str(value)


def test_each_table_is_there_as_csv_and_as_dataset_json_with_the_same_rows(world: World, path: str) -> None:
    for name in TABLES:
        rows = list(csv.DictReader(io.StringIO(content(world, path, f"{name}.csv").decode())))
        head, *lines = (json.loads(line) for line in content(world, path, f"{name}.ndjson").splitlines())
        names = [column["name"] for column in head["columns"]]
        assert head["records"] == len(lines) == len(rows)
        as_text = [[written(value) for value in line] for line in lines]
        assert [dict(zip(names, line, strict=True)) for line in as_text] == rows


def test_dataset_json_has_what_its_version_1_1_asks_for() -> None:
    """CDISC Dataset-JSON 1.1, section on NDJSON: the attributes that are required, and the types that are known."""
    table = bundle.table("outcomes", COLUMNS, [ROW], ORIGIN)
    head, row = (json.loads(line) for line in table.ndjson.splitlines())
    assert {"datasetJSONCreationDateTime", "datasetJSONVersion", "itemGroupOID", "records", "name"} <= head.keys()
    assert {"label", "columns"} <= head.keys()
    assert head["datasetJSONVersion"] == "1.1.0"
    known = {"string", "integer", "decimal", "float", "double", "boolean", "datetime", "date", "time", "URI"}
    for column in head["columns"]:
        assert {"itemOID", "name", "label", "dataType"} <= column.keys()
        assert column["dataType"] in known
    assert len({column["itemOID"] for column in head["columns"]}) == len(head["columns"]) == len(row)


def test_the_zip_holds_every_file_as_it_is_and_the_checksums_fit(world: World, path: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content(world, path, "bundle.zip"))) as archive:
        archive.extractall(tmp_path)
    listed = {file["name"] for file in world.analyst.get(path).json()["files"]}
    assert {file.name for file in tmp_path.iterdir()} == listed - {"bundle.zip"}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == content(world, path, file.name)
    command = ["sha256sum", "--check", "--strict", "sha256sums.txt"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == len(listed) - 2
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["row_content_sha256"] in (tmp_path / "README.txt").read_text()


def test_the_same_rows_give_the_same_bytes() -> None:
    first, again = ({"outcomes.csv": bundle.table("outcomes", COLUMNS, [ROW], ORIGIN)} for _ in range(2))
    assert first == again
    assert bundle.zipped({"a": first["outcomes.csv"].csv}) == bundle.zipped({"a": again["outcomes.csv"].csv})
    next_year = ORIGIN._replace(created_at="2027-01-01T00:00:00Z")
    later = {"outcomes.csv": bundle.table("outcomes", COLUMNS, [ROW], next_year)}
    assert bundle.content_digest(later) == bundle.content_digest(first)
    other = {"outcomes.csv": bundle.table("outcomes", COLUMNS, [(*ROW[:7], 31.0, *ROW[8:])], ORIGIN)}
    assert bundle.content_digest(other) != bundle.content_digest(first)


def test_text_that_is_no_code_is_in_neither_form() -> None:
    column = Column("pt", "Preferred term", "adverse_event.severity")
    table = bundle.table("adverse_events", [column], [("=1+1",), ("Headache",)], ORIGIN)
    assert table.csv == b"pt\nOTHER\nHeadache\n"
    assert table.ndjson.splitlines()[1:] == [b'["OTHER"]', b'["Headache"]']


def test_a_download_goes_on_where_it_stopped(world: World, path: str) -> None:
    whole = world.analyst.get(f"{path}/files/outcomes.csv")
    sha, tag = hashlib.sha256(whole.content).digest(), whole.headers["ETag"]
    assert whole.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(sha).decode()}:"
    assert (whole.headers["Accept-Ranges"], whole.headers["Cache-Control"]) == ("bytes", "no-store")
    size = len(whole.content)
    for asked, expected, place in (
        ("bytes=0-9", whole.content[:10], f"bytes 0-9/{size}"),
        ("bytes=10-", whole.content[10:], f"bytes 10-{size - 1}/{size}"),
        ("bytes=-5", whole.content[-5:], f"bytes {size - 5}-{size - 1}/{size}"),
        (f"bytes=0-{size + 99}", whole.content, f"bytes 0-{size - 1}/{size}"),
    ):
        answer = part(world, path, {"Range": asked, "If-Range": tag})
        assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (206, expected, place)


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-1,3-4"},
        {"Range": "rows=1-2"},
        {"Range": "bytes=-"},
        {"Range": "bytes=0-9", "If-Range": '"other"'},
    ],
    ids=["several", "no bytes", "nothing", "another file"],
)
def test_what_is_no_single_part_of_this_file_gets_the_whole(world: World, path: str, headers: dict[str, str]) -> None:
    whole = world.analyst.get(f"{path}/files/outcomes.csv")
    answer = part(world, path, headers)
    assert (answer.status_code, answer.content) == (200, whole.content)


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=9-3", "bytes=-0"])
def test_a_part_that_is_not_there_is_refused(world: World, path: str, asked: str) -> None:
    answer = part(world, path, {"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_unsatisfiable")
