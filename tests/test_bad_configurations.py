"""What a registry does not start with: each wrong thing is named in one sentence, and no secret is in it."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from app.database import Database
from app.security.keys import new_key_file, write_key_file
from app.settings import SecretsFolderMissing, Settings, secret
from tests.server import free_port, typed

SECRET = "hunter2-Zq7MARKq7Z"
CLOSED = f"postgresql+psycopg://registry:{SECRET}@127.0.0.1:{free_port()}/registry"


def keys(path: Path, **spoilt: Any) -> None:
    write_key_file(path, new_key_file(demo=spoilt.pop("demo", False)))
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoilt}))


def _same_kid(path: Path) -> None:
    keys(path)
    signing = json.loads(path.read_text())["signing"]
    path.unlink()
    keys(path, signing=signing * 2)


def _other_curve(path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    keys(path, signing=[{"kid": "1", "private_pem": pem.decode()}])


def _open_to_others(path: Path) -> None:
    keys(path)
    path.chmod(0o644)


WRONG_KEYS: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "is not there"),
    "a folder": (lambda path: path.mkdir(), "cannot be read"),
    "empty": (lambda path: (path.touch(), path.chmod(0o600)), "damaged"),
    "not JSON": (lambda path: (path.write_text(SECRET), path.chmod(0o600)), "damaged"),
    "no text": (lambda path: (path.write_bytes(b"\xff\xfe\xfd"), path.chmod(0o600)), "damaged"),
    "open to others": (_open_to_others, "chmod 600"),
    "of a demo": (lambda path: keys(path, demo=True), "belongs to a demo"),
    "short": (lambda path: keys(path, derivation="c2hvcnQ="), "damaged or holds weak keys"),
    "all zeros": (lambda path: keys(path, derivation="A" * 43 + "="), "damaged or holds weak keys"),
    "nothing to sign with": (lambda path: keys(path, signing=[]), "damaged or holds weak keys"),
    "nothing to wrap with": (lambda path: keys(path, kek=[]), "damaged or holds weak keys"),
    "two keys of one name": (_same_kid, "damaged or holds weak keys"),
    "another curve": (_other_curve, "damaged or holds weak keys"),
    "no private key": (lambda path: keys(path, signing=[{"kid": "1", "private_pem": SECRET}]), "damaged or holds weak"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_a_server_does_not_start_on_such_keys(tmp_path: Path, name: str) -> None:
    make, sentence = WRONG_KEYS[name]
    make(tmp_path / "keys.json")
    done = typed({"REGISTRY_KEY_FILE": str(tmp_path / "keys.json")}, "serve")
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr


@pytest.mark.parametrize("folder", ["nowhere", "a-file", "closed"])
def test_where_no_key_file_can_be_made_nothing_is_set_up(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").touch()
    place = tmp_path / folder / "keys.json"
    stat = os.stat

    def refused(path: Any, **options: Any) -> os.stat_result:
        """Root may look everywhere."""
        if path == place and folder == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    database = f"sqlite:///{tmp_path / 'registry.db'}"
    done = typed({"REGISTRY_KEY_FILE": str(place), "REGISTRY_DATABASE_URL": database}, "init")
    assert (done.returncode, "Its folder must exist" in done.stderr) == (2, True), done.stderr
    assert done.stderr.count("\n") == 1


WRONG_SETTINGS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "an environment that there is not": ({"ENVIRONMENT": "test"}, "REGISTRY_ENVIRONMENT"),
    "tokens that live for a day": ({"ACCESS_TOKEN_SECONDS": "86400"}, "REGISTRY_ACCESS_TOKEN_SECONDS"),
    "sessions that never end": ({"REFRESH_TOKEN_SECONDS": "0"}, "REGISTRY_REFRESH_TOKEN_SECONDS"),
    "cheap password hashes": ({"ARGON2_MEMORY_KIB": "1024"}, "REGISTRY_ARGON2_MEMORY_KIB"),
    "acknowledged and forgotten": ({"SQLITE_SYNCHRONOUS": "NORMAL"}, "REGISTRY_SQLITE_SYNCHRONOUS"),
    "no synchronous mode": ({"SQLITE_SYNCHRONOUS": "OFF"}, "REGISTRY_SQLITE_SYNCHRONOUS"),
    "no connection": ({"POOL_SIZE": "0"}, "REGISTRY_POOL_SIZE"),
    "grants looked up once a day": ({"GRANTS_CACHE_SECONDS": "86400"}, "REGISTRY_GRANTS_CACHE_SECONDS"),
    "no end of guesses": ({"THROTTLE_ACCOUNT_FAILURES": "1000000"}, "REGISTRY_THROTTLE_ACCOUNT_FAILURES"),
    "bodies without bounds": ({"MAX_BODY_BYTES": "999999999999"}, "REGISTRY_MAX_BODY_BYTES"),
    "headers without bounds": ({"MAX_HEADER_BYTES": "1000000"}, "REGISTRY_MAX_HEADER_BYTES"),
    "every page may call": ({"CORS_ORIGINS": "*"}, "REGISTRY_CORS_ORIGINS"),
    "pages by plain HTTP": ({"CORS_ORIGINS": "http://desk.example.org"}, "REGISTRY_CORS_ORIGINS"),
    "a provider without an audience": ({"OIDC_ISSUER": "https://id.example.org"}, "REGISTRY_OIDC_AUDIENCE"),
    "a provider by plain HTTP": (
        {"OIDC_ISSUER": "http://id.example.org", "OIDC_AUDIENCE": "registry"},
        "REGISTRY_OIDC_ISSUER",
    ),
    "a provider of our own name": (
        {"OIDC_ISSUER": "research-registry", "OIDC_AUDIENCE": "registry"},
        "REGISTRY_OIDC_ISSUER",
    ),
    "a mistyped name": ({"DATABASE_ULR": CLOSED}, "REGISTRY_DATABASE_ULR"),
    "another database": ({"DATABASE_URL": f"mysql://root:{SECRET}@db/registry"}, "REGISTRY_DATABASE_URL"),
    "another driver": ({"DATABASE_URL": f"postgresql://root:{SECRET}@db/registry"}, "REGISTRY_DATABASE_URL"),
    "no URL": ({"DATABASE_URL": SECRET}, "REGISTRY_DATABASE_URL"),
    "a database that nothing keeps": ({"DATABASE_URL": "sqlite://"}, "REGISTRY_DATABASE_URL"),
    "a database in memory": ({"DATABASE_URL": "sqlite:///:memory:"}, "REGISTRY_DATABASE_URL"),
    "traces that go nowhere": ({"TRACES_ENDPOINT": "collector:4318"}, "REGISTRY_TRACES_ENDPOINT"),
    "no URL of the owner": ({"OWNER_DATABASE_URL": f"://:{SECRET}@"}, "REGISTRY_OWNER_DATABASE_URL"),
    "a database that is not there": ({"DATABASE_URL": CLOSED}, "REGISTRY_DATABASE_URL"),
    "no folder of secrets": ({"SECRETS_DIR": "/nowhere"}, "REGISTRY_SECRETS_DIR"),
    "an empty name of the folder of secrets": ({"SECRETS_DIR": ""}, "REGISTRY_SECRETS_DIR"),
    "a blank name of the key file": ({"KEY_FILE": " "}, "REGISTRY_KEY_FILE: "),
    **{
        f"an empty {setting}": ({setting.upper(): ""}, f"REGISTRY_{setting.upper()}: ")
        for setting, field in Settings.model_fields.items()
        if field.default != ""
    },
    "a talkative log": ({"LOG_LEVEL": "everything"}, "REGISTRY_LOG_LEVEL"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_a_server_does_not_start_with_such_settings(tmp_path: Path, name: str) -> None:
    variables, named = WRONG_SETTINGS[name]
    keys(tmp_path / "keys.json")
    whole = {
        "REGISTRY_KEY_FILE": str(tmp_path / "keys.json"),
        "REGISTRY_DATABASE_URL": f"sqlite:///{tmp_path / 'registry.db'}",
        **{f"REGISTRY_{variable}": value for variable, value in variables.items()},
    }
    done = typed(whole, "serve")
    assert (done.returncode, named in done.stderr) == (2, True), done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("option", "number"), [("--port", "65536"), ("--port", "-1"), ("--workers", "0")])
def test_a_number_that_cannot_be_is_named_before_anything_starts(
    tmp_path: Path, option: str, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = typed({}, "serve", option, number)
    assert (done.returncode, f"'{option}'" in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_does_not_start_on_a_database_without_tables(tmp_path: Path) -> None:
    keys(tmp_path / "keys.json")
    place = {"REGISTRY_DATABASE_URL": f"sqlite:///{tmp_path / 'new.db'}"}
    done = typed({"REGISTRY_KEY_FILE": str(tmp_path / "keys.json"), **place}, "serve")
    assert (done.returncode, "registry migrate" in done.stderr) == (2, True), done.stderr


def test_a_database_password_is_in_no_text_that_a_failure_leaves() -> None:
    settings = Settings(database_url=CLOSED, owner_database_url=CLOSED)
    with Database(settings) as database, pytest.raises(Exception) as failed, database.read() as session:  # noqa: PT011
        session.connection()
    with pytest.raises(ValidationError) as refused:
        Settings(database_url=CLOSED, pool_size=0, sqlite_synchronous="NORMAL")
    texts = [repr(settings), str(settings), repr(database.engine), repr(database.url), str(refused.value)]
    texts += [str(failed.value), repr(failed.value), str(failed.value.__cause__)]
    assert [text for text in texts if SECRET in text] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGISTRY_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_setting_comes_from_a_file_of_its_name(folder: Path) -> None:
    (folder / "registry_database_url").write_text(f"{CLOSED}\n")
    (folder / "some_other_secret").write_text("not ours")
    assert Settings().database_url == CLOSED


def test_a_variable_counts_before_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "registry_issuer").write_text("from-the-file")
    assert Settings().issuer == "from-the-file"
    monkeypatch.setenv("REGISTRY_ISSUER", "from-the-variable")
    assert Settings().issuer == "from-the-variable"


def test_a_mistyped_file_is_refused_like_a_mistyped_variable(folder: Path) -> None:
    (folder / "registry_database_ulr").write_text(CLOSED)
    with pytest.raises(ValidationError, match="registry_database_ulr") as refused:
        Settings()
    assert SECRET not in str(refused.value)


def test_passwords_of_commands_come_from_files_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_NEW_PASSWORD", raising=False)
    assert secret("REGISTRY_NEW_PASSWORD") is None
    (folder / "REGISTRY_NEW_PASSWORD").write_text("a long password\n")
    assert secret("REGISTRY_NEW_PASSWORD") == "a long password"
    assert Settings().pool_size == 4


def test_a_folder_of_secrets_that_is_not_there_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_SECRETS_DIR", "/nowhere")
    with pytest.raises(SecretsFolderMissing):
        Settings()
