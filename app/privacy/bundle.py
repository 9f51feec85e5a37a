"""The files of an extract as bytes. The same rows give the same bytes, so that an extract can be cited and checked.

Text in a cell is always safe (see `cell`), so that no file can have a spreadsheet formula. Each table is there as CSV
and as CDISC Dataset-JSON 1.1 in its NDJSON form: the first line describes the columns, each further line is a row.
"""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from app.models.base import canonical_json
from app.privacy.profile import SAFE_TEXT, Column, cell

MEDIA_TYPES: Mapping[str, str] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "txt": "text/plain; charset=utf-8",
    "zip": "application/zip",
}
_TYPES = {"boolean": "boolean", "integer": "integer", "number": "double", "text": "string"}
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can have; the true one would change the bytes."""


class Origin(NamedTuple):
    """What the head of every Dataset-JSON file says about its origin."""

    study: str
    extract: str
    created_at: str
    software: str


BATCH = 1000


def header(columns: Sequence[Column]) -> bytes:
    """The first line of a CSV file."""
    return (",".join(column.name for column in columns) + "\n").encode()


def csv_parts(rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Rows as CSV, without the header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    waiting = iter(rows)
    while batch := list(islice(waiting, BATCH)):
        writer.writerows([cell(value) for value in row] for row in batch)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


class UnsafeText(Exception):
    """A column of codes has text that a spreadsheet could read as a formula: somebody changed the database by hand. The
    extract is not released."""


_HARMLESS = bytes(byte for byte in range(128) if SAFE_TEXT.fullmatch(f"x{chr(byte)}")) + b'\n"'
_SIGNED = re.compile(rb",-(?!\d+(?:\.\d+)?(?:e[-+]\d+)?[,\n])")
_BEGINNINGS = tuple((start, sign) for start in (b",", b"\n", b'"') for sign in (b"+", b"-") if start + sign != b",-")


def require_no_formula(part: bytes) -> None:
    """Check every byte of whole lines of CSV that have numbers and codes only: there is no other character, and a cell
    that begins with a sign is a number. Raises UnsafeText."""
    foreign = part.translate(None, _HARMLESS) or part.startswith((b"+", b"-"))
    # Single bytes are looked for first: most are not there at all, which is found ten times as fast.
    begins = any(start in part and sign in part and start + sign in part for start, sign in _BEGINNINGS)
    if foreign or begins or _SIGNED.search(part):
        raise UnsafeText


def dataset_json(
    name: str, columns: Sequence[Column], table: Iterable[bytes], rows: int, origin: Origin
) -> Iterator[bytes]:
    """A table's CSV as CDISC Dataset-JSON 1.1 in its NDJSON form: the metadata, then a line for each row. The first
    column is an id; the rest of a line is the same in many rows, so its JSON is made once."""
    yield canonical_json(_head(name, columns, rows, origin)).encode() + b"\n"
    others, lines = _AsJson(columns[1:]), _text_lines(table)
    next(lines)
    while batch := list(islice(lines, BATCH)):
        pairs = (line.partition(",") for line in batch)
        yield "".join([f"[{canonical_json(one or None)},{others[rest]}\n" for one, _, rest in pairs]).encode()


class _AsJson(dict[str, str]):
    """A cache: the rest of a CSV line after its id -> its JSON, with the closing bracket."""

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self._readers = [_READERS[column.type] for column in columns]

    def __missing__(self, rest: str) -> str:
        if len(self) >= 20_000:
            self.clear()
        (cells,) = csv.reader([rest])
        values = [read(text) if text else None for read, text in zip(self._readers, cells, strict=True)]
        written = self[rest] = canonical_json(values)[1:]
        return written


def _text_lines(parts: Iterable[bytes]) -> Iterator[str]:
    """The lines of a CSV file, which has no line feed within a cell."""
    rest = b""
    for part in parts:
        whole, _, rest = (rest + part).rpartition(b"\n")
        yield from whole.decode().split("\n") if whole else ()


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


_READERS: Mapping[str, Callable[[str], Any]] = {
    "boolean": lambda text: text == "Y",
    "integer": int,
    "number": _number,
    "text": str,
}


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
    writer.writerows({**row, "codes": "|".join(row["codes"])} for row in book)
    return text.getvalue().encode()


def readme(manifest: Mapping[str, Any]) -> bytes:
    """README.txt, which the recipient reads first."""
    cut = manifest["cut"]
    lines = [
        f"Extract {manifest['extract']} of the study {manifest['study']}",
        f"Profile {manifest['profile']}, version {manifest['profile_version']}; made {manifest['created_at']}",
        f"Data cut: {cut}" if cut else "Data as of that moment",
        f"For: {manifest['organisation']}",
        f"Purpose: {' '.join(manifest['purpose'].split())}",
        *([f"Agreement: {manifest['agreement']}"] if manifest["agreement"] else []),
        "",
        manifest["statement"],
        "Use it for the purpose that was approved, do not pass it on, and do not try to find out who anybody is.",
        "",
        f"Cite it as: Research Registry, study {manifest['study']}, extract {manifest['extract']},",
        f"rows sha256:{manifest['row_content_sha256']}",
        "",
        "codebook.csv and codebook.json say what each column means and what was done to it. The tables are there as",
        ".csv; if .ndjson (CDISC Dataset-JSON 1.1) or .parquet were asked for, these hold the same rows.",
        "Of participants who withdrew consent to the collection of their data and gave none anew, it holds what is",
        "dated before that day.",
        "Check the files that you have: sha256sum --check --ignore-missing sha256sums.txt",
        "",
    ]
    return "\n".join(lines).encode()


def sums(digests: Mapping[str, str]) -> bytes:
    """The checksums in the format of `sha256sum --check`."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


class Packed(NamedTuple):
    """A file that is deflated already: its size before and after, the CRC-32 of its content, and its deflated parts."""

    length: int
    packed: int
    crc32: int
    parts: Callable[[], Iterable[bytes]]


def zipped(target: Any, files: Mapping[str, Packed]) -> None:
    """Write all files into one zip, in the order of their names, to a stream that need not be seekable. They are
    compressed already: zipfile writes only the headers and the directory."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files):
            info, file = zipfile.ZipInfo(name, _EPOCH), files[name]
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            info.file_size, info.compress_size, info.CRC = file.length, file.packed, file.crc32
            info.header_offset = target.tell()
            target.write(info.FileHeader())
            for part in file.parts():
                target.write(part)
            archive.filelist.append(info)
            archive.start_dir = target.tell()
