"""A registry never starts on missing, open, weak or borrowed secrets."""

import errno
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import ValidationError

from app.security.keys import KeysUnusable, load_keyring, new_key_file, write_key_file
from app.settings import Settings


def settings(path: Path, **more: Any) -> Settings:
    return Settings(key_file=path, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_fresh_key_file_is_its_owners_alone_and_is_never_overwritten(path: Path) -> None:
    write_key_file(path, new_key_file())
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_keyring(settings(path)).active_kek
    with pytest.raises(KeysUnusable, match="File exists"):
        write_key_file(path, new_key_file())


def test_a_missing_key_file_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(KeysUnusable, match="registry init"):
        load_keyring(settings(path))


@pytest.mark.parametrize("refusal", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "broken")])
def test_nobody_is_told_to_make_another_key_file_where_one_is_there(path: Path, refusal: OSError) -> None:
    write_key_file(path, new_key_file())
    with (
        patch.object(Path, "read_bytes", side_effect=refusal),
        pytest.raises(KeysUnusable, match="cannot be read") as told,
    ):
        load_keyring(settings(path))
    assert "init" not in str(told.value)


def test_a_key_file_open_to_others_is_refused(path: Path) -> None:
    write_key_file(path, new_key_file())
    path.chmod(0o640)
    with pytest.raises(KeysUnusable, match="chmod 600"):
        load_keyring(settings(path))


def test_demo_keys_are_refused_in_production(path: Path) -> None:
    write_key_file(path, new_key_file(demo=True))
    assert load_keyring(settings(path, environment="demo"))
    with pytest.raises(KeysUnusable, match="belongs to a demo"):
        load_keyring(settings(path))


@pytest.mark.parametrize(
    "spoil",
    [
        {"derivation": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
        {"derivation": "c2hvcnQ="},
        {"derivation": "not base64"},
        {"kek": []},
        {"signing": []},
        {"kek": [{"kid": "1", "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]},
        {"unknown": 1},
    ],
)
def test_weak_or_damaged_keys_are_refused(path: Path, spoil: dict[str, Any]) -> None:
    write_key_file(path, new_key_file())
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoil}))
    with pytest.raises(KeysUnusable, match="damaged or holds weak keys"):
        load_keyring(settings(path))


@pytest.mark.parametrize(
    "change",
    [{"access_token_seconds": 901}, {"argon2_memory_kib": 1024}, {"sqlite_synchronous": "NORMAL"}, {"pool_size": 0}],
)
def test_production_refuses_weak_settings(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**change)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_ENVIRONMENT", "demo")
    monkeypatch.setenv("REGISTRY_ACCESS_TOKEN_SECONDS", "43200")
    assert Settings().access_token_seconds == 43_200


def test_each_purpose_has_a_key_of_its_own(path: Path) -> None:
    write_key_file(path, new_key_file())
    keyring = load_keyring(settings(path))
    purposes = ("blind-index", "cursor", "idempotency", "secret-digest", "etag")
    assert len({keyring.derived(purpose) for purpose in purposes}) == len(purposes)
    assert keyring.digest("etag", b"ab", b"c") != keyring.digest("etag", b"a", b"bc")


def test_a_mistyped_setting_is_refused_instead_of_leaving_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_DATABASE_ULR", "postgresql+psycopg://db/registry")
    with pytest.raises(ValidationError, match="REGISTRY_DATABASE_ULR"):
        Settings()
