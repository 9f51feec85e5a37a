"""A downloaded extract for SPSS, Stata and SAS, through pyreadstat (the extra `statistics`).

The files made here are copies for convenience: they are not among those that the registry signs for, and SAS and SPSS
know no missing text, so an empty cell of text arrives as an empty string.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_client.errors import Damaged

if TYPE_CHECKING:
    import polars as pl

FORMS: Mapping[str, str] = {"sas": "xpt", "spss": "sav", "stata": "dta"}
"""Program -> ending of its files. SAS transport files are of version 8, whose names may have 32 characters."""


def convert(folder: Path, form: str) -> list[Path]:
    """Write each table of the extract in `folder` once more, beside its CSV file, with the labels of its codebook.

    Raises Damaged for a file that does not fit its checksum, KeyError for an unknown form, ImportError without the
    extra.
    """
    ending, made = FORMS[form], []
    _held_against_checksums(folder)
    for name, columns in _tables(folder):
        target = folder / f"{name}.{ending}"
        _write(form, _frame(folder / f"{name}.csv", columns), target, name, columns)
        made.append(target)
    return made


def _held_against_checksums(folder: Path) -> None:
    for line in (folder / "sha256sums.txt").read_text().splitlines():
        digest, _, name = line.partition("  ")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise Damaged(f"{name} does not have the checksum of sha256sums.txt")


def _tables(folder: Path) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    columns = json.loads((folder / "codebook.json").read_text())["columns"]
    for file in dict.fromkeys(column["file"] for column in columns):
        yield file.removesuffix(".csv"), [column for column in columns if column["file"] == file]


def _frame(file: Path, columns: list[Mapping[str, Any]]) -> "pl.DataFrame":
    import polars as pl

    types = {"integer": pl.Int64, "number": pl.Float64}
    schema = {column["name"]: types.get(column["type"], pl.String) for column in columns}
    return pl.read_csv(file, schema=schema)


def _write(form: str, frame: "pl.DataFrame", target: Path, name: str, columns: list[Mapping[str, Any]]) -> None:
    import pyreadstat

    labels = {column["name"]: column["label"] for column in columns}
    title, file = name.replace("_", " "), str(target)
    if form == "spss":
        pyreadstat.write_sav(frame, file, file_label=title, column_labels=labels)
    elif form == "stata":
        pyreadstat.write_dta(frame, file, file_label=title, column_labels=labels, version=15)
    else:
        table = name.upper()
        pyreadstat.write_xport(
            frame, file, file_label=title, column_labels=labels, table_name=table, file_format_version=8
        )
