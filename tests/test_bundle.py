"""The bundle of an extract: every table twice, one zip, checksums that fit, and parts of a file on request."""

import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from httpx2 import Response
from pyarrow import parquet

from app.models.extract import ExtractProfile
from app.privacy import bundle
from app.privacy.lattice import K
from app.privacy.profile import PROFILES, Column, cell
from tests.route_cases import an_extract, extract_of
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


def as_dataset_json(name: str, columns: Sequence[Column], *rows: tuple[Any, ...]) -> list[bytes]:
    parts = [bundle.header(columns), *bundle.csv_parts(rows)]
    return b"".join(bundle.dataset_json(name, columns, parts, len(rows), ORIGIN)).splitlines()


_MOMENT = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([+-]\d\d:\d\d|Z)?"
_ATTRIBUTES = {
    "datasetJSONCreationDateTime": (_MOMENT, True),
    "datasetJSONVersion": (r"1\.1(\.(0|[1-9]\d*))?", True),
    "fileOID": (".+", False),
    "dbLastModifiedDateTime": (_MOMENT, False),
    "originator": (".+", False),
    "sourceSystem": (None, False),
    "studyOID": (".+", False),
    "metaDataVersionOID": (".+", False),
    "metaDataRef": (".+", False),
    "itemGroupOID": (".+", True),
    "isReferenceData": ("true|false", False),
    "records": (r"\d+", True),
    "name": (".+", True),
    "label": (".+", True),
    "columns": (None, True),
}
"""CDISC Dataset-JSON 1.1, schema of the NDJSON form (cdisc-org/DataExchange-DatasetJson, schema/dataset-ndjson.yaml):
each attribute of the first line, what it looks like, whether it must be there. Nothing else may be."""
_JSON_TYPES = {"boolean": bool, "double": (int, float), "integer": int, "string": str}


@pytest.mark.parametrize("profile", list(ExtractProfile))
def test_every_table_is_dataset_json_1_1(profile: ExtractProfile) -> None:
    value = {"boolean": True, "integer": 2, "number": 2.5, "text": "x"}
    for file, columns in PROFILES[profile].files.items():
        name = file.removesuffix(".csv")
        row = tuple(value[column.type] for column in columns)
        head, *rows = (json.loads(line) for line in as_dataset_json(name, columns, row, (None,) * len(columns)))
        assert head.keys() <= _ATTRIBUTES.keys()
        assert {attribute for attribute, (_, required) in _ATTRIBUTES.items() if required} <= head.keys()
        for attribute, told in head.items():
            shape, _ = _ATTRIBUTES[attribute]
            assert shape is None or re.fullmatch(shape, str(told)), attribute
        assert head["sourceSystem"].keys() == {"name", "version"}
        types = [column["dataType"] for column in head["columns"]]
        for column in head["columns"]:
            assert column.keys() == {"itemOID", "name", "label", "dataType"}
        assert len({column["itemOID"] for column in head["columns"]}) == len(columns)
        assert head["records"] == len(rows) == 2
        for line in rows:
            assert all(
                cell is None or isinstance(cell, _JSON_TYPES[type_]) for cell, type_ in zip(line, types, strict=True)
            )


@pytest.mark.by_turns
@pytest.mark.parametrize("profile", ExtractProfile)
def test_the_codebook_that_comes_with_an_extract_is_the_published_one(world: World, profile: ExtractProfile) -> None:
    world.uploaded("participants", [world.enrolment() for _ in range(K)])
    agreement = "DUA-7" if profile is ExtractProfile.pseudonymised else None
    path = extract_of(world, approved=True, profile=profile, agreement=agreement)
    published = world.analyst.get("/v1/codebook", profile=profile)
    assert world.analyst.get(f"{path}/files/codebook.json").json() == published.json()
    table = world.analyst.get("/v1/codebook", profile=profile, format="csv")
    assert world.analyst.get(f"{path}/files/codebook.csv").text == table.text


def test_the_codebook_lists_scores_and_bands_of_the_instruments_that_are_released(world: World) -> None:
    """PCL-5 and the ITQ, whose scores say who may have PTSD, beside MADRS."""

    def codes(profile: ExtractProfile, name: str) -> set[str]:
        columns = world.analyst.get("/v1/codebook", profile=profile).json()["columns"]
        return next(set(column["codes"]) for column in columns if column["name"] == name)

    for name, shown, withheld in (("band", "moderate", "complex PTSD"), ("score", "total", "provisional_diagnosis")):
        assert {shown, withheld} <= codes(ExtractProfile.pseudonymised, name)
        assert {shown, withheld} & codes(ExtractProfile.deidentified, name) == {shown}


def test_the_zip_has_every_file_and_the_checksums_are_right(world: World, path: str, tmp_path: Path) -> None:
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
    (tmp_path / "outcomes.csv").unlink()
    said = (tmp_path / "README.txt").read_text().partition("that you have: ")[2].splitlines()[0].split()
    assert subprocess.run(said, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["row_content_sha256"] in (tmp_path / "README.txt").read_text()


def packed(*parts: bytes) -> bundle.Packed:
    """A file whose chunks are these, each deflated by itself."""
    flushes = [zlib.Z_SYNC_FLUSH] * (len(parts) - 1) + [zlib.Z_FINISH]
    done, whole = [], b"".join(parts)
    for part, flush in zip(parts, flushes, strict=True):
        deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        done.append(deflate.compress(part) + deflate.flush(flush))
    return bundle.Packed(len(whole), sum(map(len, done)), zlib.crc32(whole), lambda: done)


def test_a_zip_takes_files_that_are_deflated_in_parts_as_they_are(tmp_path: Path) -> None:
    contents = {"b.csv": (b"x,", b"y\n1" * 99, b",2\n"), "a.csv": (b"",), "c.csv": (b"x" * 70_000,)}
    for archive in (tmp_path / "one.zip", tmp_path / "two.zip"):
        with archive.open("wb") as target:
            bundle.zipped(target, {name: packed(*parts) for name, parts in contents.items()})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as read:
        assert read.testzip() is None
        assert {name: read.read(name) for name in read.namelist()} == {
            name: b"".join(parts) for name, parts in sorted(contents.items())
        }
        assert {info.date_time for info in read.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_text_that_is_not_a_code_is_in_neither_form() -> None:
    columns = [COLUMNS[0], Column("pt", "Preferred term", "adverse_event.severity")]
    rows = [("9ABC", "=1+1"), ("9ABC", "Headache")]
    assert b"".join(bundle.csv_parts(rows)) == b"9ABC,OTHER\n9ABC,Headache\n"
    assert as_dataset_json("x", columns, *rows)[1:] == [b'["9ABC","OTHER"]', b'["9ABC","Headache"]']


def test_dataset_json_is_the_same_however_the_csv_is_cut() -> None:
    columns = PROFILES[ExtractProfile.pseudonymised].files["adverse_events.csv"]
    row = ("9ABC", "Gut, other", None, -3, "mild", True, None, "x", None, "y", False, None)
    text = b"".join([bundle.header(columns), *bundle.csv_parts([row] * 3)])
    pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
    _, *lines = b"".join(bundle.dataset_json("adverse_events", columns, pieces, 3, ORIGIN)).splitlines()
    assert [tuple(json.loads(line)) for line in lines] == [row] * 3


def test_parquet_holds_the_same_rows_under_the_types_of_the_codebook(world: World) -> None:
    pid = world.enrolled()
    body = world.visit(pid, "BL", "2025-01-25", outcomes=[madrs(3), {**madrs(1), "instrument": "PHQ9", "items": {}}])
    assert world.staff_a.post("/v1/visits", body).is_success
    path = an_extract(world, approved=True, formats=["parquet"])
    assert not [file for file in world.analyst.get(path).json()["files"] if file["name"].endswith(".ndjson")]
    table = parquet.read_table(pa.BufferReader(content(world, path, "outcomes.parquet")))
    types = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "text": pa.string()}
    declared = PROFILES[ExtractProfile.pseudonymised].files["outcomes.csv"]
    assert {field.name: field.type for field in table.schema} == {one.name: types[one.type] for one in declared}
    rows = list(csv.DictReader(io.StringIO(content(world, path, "outcomes.csv").decode())))
    shown = [{name: cell(value) for name, value in row.items()} for row in table.to_pylist()]
    assert shown == rows
    assert {row["value"] for row in rows} == {"30", ""}
    assert table.schema.metadata is None


def test_a_download_can_be_continued_where_it_stopped(world: World, path: str) -> None:
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


def test_a_question_for_the_headers_of_a_file_is_answered_for_the_whole_file(world: World, path: str) -> None:
    """RFC 9110, section 14.2: parts are defined for GET only."""
    whole = world.analyst.get(f"{path}/files/outcomes.csv")
    head = world.analyst.raw("HEAD", f"{path}/files/outcomes.csv", b"", Range="bytes=0-9")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.content))


@pytest.mark.by_turns
@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-1,3-4"},
        {"Range": "rows=1-2"},
        {"Range": "bytes=-"},
        {"Range": "bytes=9-3"},
        {"Range": "bytes=0-9", "If-Range": '"other"'},
    ],
    ids=["several", "no bytes", "nothing", "ends before it begins", "another file"],
)
def test_a_range_that_is_not_a_single_part_of_this_file_gets_the_whole_file(
    world: World, path: str, headers: dict[str, str]
) -> None:
    whole = world.analyst.get(f"{path}/files/outcomes.csv")
    answer = part(world, path, headers)
    assert (answer.status_code, answer.content) == (200, whole.content)


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=-0"])
def test_a_range_beyond_the_file_is_refused(world: World, path: str, asked: str) -> None:
    answer = part(world, path, {"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_unsatisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(part(world, path, {}).content)}"
