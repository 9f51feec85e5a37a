"""Why a backup cannot be read or made is said in a sentence, which holds nothing of anybody and no secret."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import schema
from app.database import Database
from app.models.base import now
from app.services.operations import backups
from tests.postgres import SERVER_ROLE, new_database, settings_of
from tests.test_backups import refusal


@pytest.fixture
def not_ours() -> Iterator[Path]:
    """A backup that this user may not read. The tests may be run by root, who may read everything."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "one").mkdir()
        (Path(place) / "one" / backups.MANIFEST).touch()
        Path(place).chmod(0o755)
        (Path(place) / "one").chmod(0)
        as_root = os.geteuid() == 0
        if as_root:
            os.seteuid(65_534)
        try:
            yield Path(place) / "one"
        finally:
            if as_root:
                os.seteuid(0)
            (Path(place) / "one").chmod(0o700)


def test_a_backup_of_another_user_is_no_damaged_one(not_ours: Path) -> None:
    assert "cannot be read by this user" in refusal(lambda: backups.read(not_ours))


def test_a_folder_that_cannot_be_listed_is_passed_over_when_old_backups_go(not_ours: Path) -> None:
    assert list(backups.forget(not_ours.parent, 1)) == []


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (("pg_dump: error: query failed: ERROR:  permission denied", "DETAIL:  Key (label)=(LAB-1)"), True),
        (("pg_dump: error: no password supplied but $PGPASSWORD",), False),
        (("Segmentation fault",), False),
    ],
)
def test_the_reason_of_postgresqls_programs_is_shown_without_any_row_or_password(
    postgres_url: str,
    key_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    says: tuple[str, ...],
    told: bool,
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\n" + "".join(f'echo "{line}" >&2\n' for line in says) + "exit 1\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with new_database(postgres_url) as url:
        settings = settings_of(url, key_file)
        with Database(settings) as owned:
            schema.upgrade(owned)
        with Database(settings, for_server=True) as database:
            sentence = refusal(lambda: backups.make(database, tmp_path / "one", now()))
    assert ("permission denied" in sentence, "pg_dump failed (exit 1)" in sentence) == (told, True)
    assert "LAB-1" not in sentence
    assert SERVER_ROLE not in sentence
