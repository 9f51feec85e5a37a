"""The files of an extract as bytes: the same rows give the same bytes, so that an extract can be cited and checked.

Text in a cell is always a code (see `cell`), so no file can carry a spreadsheet formula. Each table comes as CSV and as
CDISC Dataset-JSON 1.1 in its NDJSON form: the first line tells the columns, each further line is one row.
"""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from app.models.base import canonical_json
from app.privacy.profile import Column, cell

MEDIA_TYPES: Mapping[str, str] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "txt": "text/plain; charset=utf-8",
    "zip": "application/zip",
}
_TYPES = {"boolean": "boolean", "integer": "integer", "number": "double", "text": "string"}
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest moment a zip knows; the true one would change the bytes."""


class Table(NamedTuple):
    """One table, written twice; `digest` is over its rows alone, whatever writes them."""

    csv: bytes
    ndjson: bytes
    rows: int
    digest: str


class Origin(NamedTuple):
    """What every Dataset-JSON file says of where it comes from."""

    study: str
    extract: str
    created_at: str
    software: str


def table(name: str, columns: Sequence[Column], rows: Iterable[tuple[Any, ...]], origin: Origin) -> Table:
    """`rows` are read once. The metadata line comes first and counts the rows, so it is written last."""
    text, lines, digest, count = io.StringIO(newline=""), io.BytesIO(), hashlib.sha256(), 0
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        writer.writerow([cell(value) for value in row])
        line = canonical_json([_value(value) for value in row]).encode() + b"\n"
        lines.write(line)
        digest.update(line)
        count += 1
    head = canonical_json(_head(name, columns, count, origin)).encode() + b"\n"
    return Table(text.getvalue().encode(), head + lines.getvalue(), count, digest.hexdigest())


def _value(value: Any) -> Any:
    """As JSON: the numbers as they are, a whole number without a point, text as a CSV cell would hold it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, bool | int | float) else cell(value)


def _head(name: str, columns: Sequence[Column], count: int, origin: Origin) -> dict[str, Any]:
    group = f"IG.{name.upper()}"
    return {
        "datasetJSONVersion": "1.1.0",
        "datasetJSONCreationDateTime": origin.created_at,
        "fileOID": f"{origin.extract}.{name}",
        "originator": "Research Registry",
        "sourceSystem": {"name": "Research Registry", "version": origin.software},
        "studyOID": origin.study,
        "itemGroupOID": group,
        "name": name.upper(),
        "label": name.replace("_", " ").capitalize(),
        "records": count,
        "columns": [
            {
                "itemOID": f"IT.{name.upper()}.{column.name.upper()}",
                "name": column.name,
                "label": column.label,
                "dataType": _TYPES[column.type],
            }
            for column in columns
        ],
    }


def codebook_csv(book: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(book[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(book)
    return text.getvalue().encode()


def readme(manifest: Mapping[str, Any]) -> bytes:
    """What the recipient reads first."""
    lines = [
        f"Extract {manifest['extract']} of the study {manifest['study']}",
        f"Profile {manifest['profile']}, version {manifest['profile_version']}; made {manifest['created_at']}",
        "",
        manifest["statement"],
        "Use it for the purpose that was approved, do not pass it on, and do not try to find out who anybody is.",
        "",
        f"Cite it as: Research Registry, study {manifest['study']}, extract {manifest['extract']},",
        f"rows sha256:{manifest['row_content_sha256']}",
        "",
        "codebook.csv and codebook.json say what each column means and what was done to it. Each table is there as",
        ".csv and as .ndjson (CDISC Dataset-JSON 1.1). Check the files: sha256sum --check sha256sums.txt",
        "",
    ]
    return "\n".join(lines).encode()


def sums(files: Mapping[str, bytes]) -> bytes:
    """As `sha256sum --check` reads it."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """All of them in one file, in the order of their names."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, files[name])
    return whole.getvalue()


def content_digest(tables: Mapping[str, Table]) -> str:
    """Over the rows of all tables: equal for equal data, whatever the writers' versions."""
    told = {name: one.digest for name, one in tables.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
