"""Runs the analyst's examples of docs/examples as their reader would."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb

from tests.server import ROOT

FOLDER = ROOT / "docs" / "examples"


def printed(example: str, table: Path) -> str | None:
    """What an example prints of a table of an extract; None where its language is not installed on this machine."""
    file = FOLDER / example
    if file.suffix == ".sql":
        return _queried(file.read_text(), table.parent)
    program = {".py": sys.executable, ".R": shutil.which("Rscript")}[file.suffix]
    if program is None:
        return None
    done = subprocess.run([program, str(file), str(table)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _queried(query: str, folder: Path) -> str:
    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{folder}'")
        rows = connection.execute(query).fetchall()
    return "".join(": ".join(map(str, row)) + "\n" for row in rows)
