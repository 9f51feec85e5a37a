"""Rotation of keys: no valid token is refused while it runs, and a retired key's tokens are refused at the end."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from app.security import keys
from app.security.jwt import TokenRefused
from app.security.keys import KeyFile, Keyring, KeysUnusable, load_keyring, new_key_file, read_key_file, write_key_file
from app.security.rotation import SPREAD_SECONDS, RotationRefused, replace_key_file, retired, rotated
from app.security.sealing import seal, unseal
from app.security.tokens import TokenAuthority
from app.settings import Settings
from tests.server import LiveServer, running_server, typed

SUBJECT = UUID("00000000-0000-4000-8000-000000000001")
START = datetime(2026, 3, 1, tzinfo=UTC)
LATER = START + timedelta(seconds=SPREAD_SECONDS)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_key_file(tmp_path / "keys.json", new_key_file(demo=True))
    return Settings(environment="demo", key_file=tmp_path / "keys.json")


def test_a_key_is_next_then_active_then_retired(settings: Settings) -> None:
    first = read_key_file(settings)
    waiting = rotated(first, "signing", START)
    assert waiting.signing[0] == first.signing[0]
    with pytest.raises(RotationRefused, match="in 1 seconds"):
        rotated(waiting, "signing", LATER - timedelta(seconds=0.5))
    active = rotated(waiting, "signing", LATER)
    assert [key.kid for key in active.signing] == [waiting.signing[1].kid, first.signing[0].kid]
    assert active.signing[1].retired_at == LATER
    assert rotated(active, "signing", LATER).signing[:2] == active.signing, "the third step makes a next one again"
    assert (active.kek, active.derivation) == (first.kek, first.derivation)


def test_only_what_no_valid_token_needs_is_removed(settings: Settings) -> None:
    first = read_key_file(settings)
    active = rotated(rotated(first, "signing", START), "signing", LATER)
    old, new = first.signing[0].kid, active.signing[0].kid
    needed = timedelta(seconds=900 + SPREAD_SECONDS)
    with pytest.raises(RotationRefused, match="may be valid until"):
        retired(active, old, LATER + needed - timedelta(seconds=1), 900)
    assert [key.kid for key in retired(active, old, LATER + needed, 900).signing] == [new]
    assert [key.kid for key in retired(active, old, LATER, 900, now=True).signing] == [new]
    with pytest.raises(RotationRefused, match="active"):
        retired(active, new, LATER, 900, now=True)
    with pytest.raises(RotationRefused, match="no signing key"):
        retired(active, "unknown", LATER, 900)


def test_the_public_half_of_a_retired_key_stays_and_verifies_no_token(settings: Settings) -> None:
    first = read_key_file(settings)
    token = TokenAuthority(Keyring(first), settings).issue(SUBJECT, "c", [], 1)
    active = rotated(rotated(first, "signing", START), "signing", LATER)
    old = first.signing[0].kid
    replace_key_file(settings, lambda _: retired(active, old, LATER + timedelta(hours=1), 900))
    after = read_key_file(settings)
    assert [(key.kid, key.retired_at) for key in after.past] == [(old, LATER)]
    assert "PRIVATE" not in after.past[0].model_dump_json()
    authority = TokenAuthority(Keyring(after), settings)
    assert old not in {key["kid"] for key in authority.jwks()["keys"]}
    with pytest.raises(TokenRefused):
        authority.verify(token)
    assert retired(active, old, LATER, 900, now=True).past == [], "a key that leaked vouches for nothing"


def test_a_retired_wrapping_key_still_unwraps(settings: Settings) -> None:
    first = read_key_file(settings)
    before, after = Keyring(first), Keyring(rotated(rotated(first, "kek", START), "kek", LATER))
    assert after.active_kek != before.active_kek
    wrapped = seal(before.kek[before.active_kek], b"data key", b"row")
    assert unseal(after.kek[before.active_kek], wrapped, b"row") == b"data key"
    assert after.signing == before.signing


def test_a_next_key_verifies_and_is_published_before_it_signs(settings: Settings) -> None:
    first = read_key_file(settings)
    waiting = rotated(first, "signing", START)
    ahead = TokenAuthority(Keyring(rotated(waiting, "signing", LATER)), settings)
    behind = TokenAuthority(Keyring(waiting), settings)
    subject = SUBJECT
    assert behind.verify(ahead.issue(subject, "c", [], 1)).subject == subject
    assert ahead.verify(behind.issue(subject, "c", [], 1)).subject == subject
    assert {key["kid"] for key in behind.jwks()["keys"]} == {key.kid for key in waiting.signing}
    assert not [key for key in behind.jwks()["keys"] if "d" in key]


def test_a_worker_notices_a_replaced_file_and_keeps_its_keys_over_a_bad_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "RELOAD_SECONDS", 0.0)
    keyring = load_keyring(settings)
    tokens = TokenAuthority(keyring, settings)
    token = tokens.issue(SUBJECT, "c", [], 1)
    kid = keyring.signing[0].kid
    tokens.verify(token)
    replace_key_file(settings, lambda file: rotated(rotated(file, "signing", START), "signing", LATER))
    assert tokens.verify(token).subject == SUBJECT
    replace_key_file(settings, lambda file: retired(file, kid, LATER, 900, now=True))
    with pytest.raises(TokenRefused):
        tokens.verify(token)
    known = keyring.signing
    for bad in (b"{", b"\xff\xfe\xfd", new_key_file(demo=True).model_dump_json().encode()):
        settings.key_file.write_bytes(bad)
        assert keyring.signing == known, "damaged, no text, or of another deployment"
    settings.key_file.unlink()
    assert keyring.signing == known


def test_the_file_is_replaced_as_a_whole_by_one_change_at_a_time(settings: Settings) -> None:
    before = settings.key_file.read_bytes()

    def fails(_: KeyFile) -> KeyFile:
        with pytest.raises(KeysUnusable, match="Another change"):
            replace_key_file(settings, lambda file: file)
        raise RotationRefused("no")

    with pytest.raises(RotationRefused):
        replace_key_file(settings, fails)
    assert settings.key_file.read_bytes() == before
    replace_key_file(settings, lambda file: rotated(file, "signing", START))
    assert settings.key_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.key_file.parent.iterdir()] == ["keys.json"]


def test_a_folder_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(KeysUnusable, match="cannot be written"):
        replace_key_file(Settings(environment="demo", key_file=tmp_path / "no" / "keys.json"), lambda file: file)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("rotating")
    with running_server(folder, f"sqlite:///{folder / 'registry.db'}", REGISTRY_GRANTS_CACHE_SECONDS="1") as server:
        yield server


def keys_command(server: LiveServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return typed(server.environment, "keys", *arguments)


def _eventually(holds: Callable[[], bool], seconds: float) -> bool:
    pause = threading.Event()
    for _ in range(int(seconds / 0.2)):
        if holds():
            return True
        pause.wait(0.2)
    return False


def test_no_valid_token_is_refused_while_keys_rotate_under_load(served: LiveServer) -> None:
    credentials = {"username": served.admin_username, "password": served.admin_password}
    refused: list[int] = []
    asked, done = [0, 0], threading.Event()

    def sign_in() -> str:
        with httpx.Client(base_url=served.base_url) as http:
            return str(http.post("/v1/auth/sessions", json=credentials).raise_for_status().json()["access_token"])

    old = sign_in()

    def status(token: str) -> int:
        return httpx.get(f"{served.base_url}/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code

    def load(number: int) -> None:
        with httpx.Client(base_url=served.base_url) as http:
            while not done.wait(0.05):  # often enough to meet each step, and the machine is left to other tests
                fresh = http.post("/v1/auth/sessions", json=credentials).json()["access_token"] if number else old
                for token in (old, fresh):
                    answer = http.get("/v1/me", headers={"Authorization": f"Bearer {token}"})
                    asked[number] += 1
                    if answer.status_code != 200:
                        refused.append(answer.status_code)

    threads = [threading.Thread(target=load, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        first = keys_command(served, "rotate", "--reason", "yearly")
        too_soon = keys_command(served, "rotate", "--reason", "yearly")
        done.wait(SPREAD_SECONDS + 0.5)
        second = keys_command(served, "rotate", "--reason", "yearly")
        done.wait(2 * keys.RELOAD_SECONDS)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert (first.returncode, too_soon.returncode, second.returncode) == (0, 2, 0), first.stderr + second.stderr
    assert "Not every worker knows the next key yet" in too_soon.stderr
    assert len(too_soon.stderr.splitlines()) == 1
    assert min(asked) > 50
    assert refused == []

    kid = second.stdout.splitlines()[1].split()[1]
    assert f"signing  {kid}  retired" in second.stdout
    assert keys_command(served, "retire", kid, "--reason", "yearly").returncode == 2
    new = sign_in()
    assert keys_command(served, "retire", kid, "--reason", "the key leaked", "--now").returncode == 0
    assert _eventually(lambda: status(old) == 401, 3 * keys.RELOAD_SECONDS)
    assert status(new) == 200
    listed = {key["kid"] for key in httpx.get(f"{served.base_url}/.well-known/jwks.json").json()["keys"]}
    assert kid not in listed
    shown = keys_command(served, "show").stdout
    private = json.loads(Path(served.environment["REGISTRY_KEY_FILE"]).read_text())
    assert kid not in shown
    assert private["derivation"] not in shown
    assert "PRIVATE" not in shown
