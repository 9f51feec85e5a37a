"""An export is verified by strangers: with the lines of docs/audit.md, and with a signed checkpoint."""

import json
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import audit
from app.cli import app
from app.models.audit import REGISTRY_CHAIN
from app.security import statements
from app.security.keys import read_key_file
from app.security.rotation import replace_key_file, retired, rotated
from app.settings import Settings
from tests.test_audit_entries import amended
from tests.world import World

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "audit.md").read_text()
VERIFIER, JOINER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Shell:
    """The commands, on the database and the keys of the tests."""

    def __init__(self, world: World, folder: Path, patch: pytest.MonkeyPatch) -> None:
        settings = world.registry.app.state.settings
        for name in ("environment", "database_url", "key_file"):
            patch.setenv(f"REGISTRY_{name.upper()}", str(getattr(settings, name)))
        if settings.owner_database_url:
            patch.setenv("REGISTRY_OWNER_DATABASE_URL", settings.owner_database_url)
        self.folder = folder

    def audit(self, *arguments: str) -> tuple[int, str]:
        ran = CliRunner().invoke(app, ["audit", *arguments])
        return ran.exit_code, ran.output

    def file(self, name: str, content: str) -> str:
        (self.folder / name).write_bytes(content.encode())
        return str(self.folder / name)

    def page(self, lines: str, file: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "utf8", "-c", lines, file]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def shell(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(world, tmp_path, monkeypatch)


def exported(world: World, shell: Shell) -> list[str]:
    amended(world, "Falsche Zeile gelesen: Grüße")
    code, lines = shell.audit("export", "--chain", f"{world.study}/A")
    assert code == 0
    return lines.splitlines(keepends=True)


def test_the_servers_role_sees_every_chain_whole_as_the_owner_does(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.enrolled()
    with world.registry.database.write() as session:
        done = audit.Event("test.done", "test", "1", 1, [])
        audit.append(session, audit.SYSTEM, REGISTRY_CHAIN, [done])
    commands = (("verify",), ("export", "--chain", "0"), ("export", "--chain", f"{world.study}/A"))
    owners = [shell.audit(*command) for command in commands]
    monkeypatch.delenv("REGISTRY_OWNER_DATABASE_URL", raising=False)
    assert [shell.audit(*command) for command in commands] == owners
    assert all(code == 0 and lines for code, lines in owners)


def test_the_pages_lines_verify_an_export_and_find_what_was_tampered_with(world: World, shell: Shell) -> None:
    lines = exported(world, shell)
    whole = shell.page(VERIFIER, shell.file("whole.jsonl", "".join(lines)))
    assert (whole.returncode, whole.stderr) == (0, "")
    assert f"{len(lines)} entries" in whole.stdout
    assert shell.audit("verify", "--file", str(shell.folder / "whole.jsonl"))[0] == 0
    forgeries = [
        (2, [*lines[:1], *lines[2:]]),
        (1, [lines[0].replace('"subject_version":1', '"subject_version":2'), *lines[1:]]),
        (2, [lines[0], lines[2], lines[1], *lines[3:]]),
        (2, [lines[0], *lines]),
        (len(lines), [*lines[:-1], lines[-1].replace("Falsche", "Richtige")]),
    ]
    for number, forged in forgeries:
        file = shell.file("forged.jsonl", "".join(forged))
        assert f"entry {number} is missing or was changed" in shell.page(VERIFIER, file).stderr
        code, said = shell.audit("verify", "--file", file)
        assert (code, f"entry {number} " in said) == (1, True)


def chain_of(line: str) -> int:
    return int(json.loads(line)["site_id"])


@pytest.mark.by_turns
@pytest.mark.parametrize("line", ["", "no JSON", "5", "[]", '{"site_id": 1}', "[" * 100_000])
def test_a_file_that_is_no_export_is_refused_in_one_sentence(world: World, shell: Shell, line: str) -> None:
    lines = exported(world, shell)
    file = shell.file("spoilt.jsonl", "".join([lines[0], f"{line}\n", *lines[1:]]))
    assert shell.audit("verify", "--file", file)[0] == 2


def test_the_csv_joins_to_the_lines_of_the_export(world: World, shell: Shell) -> None:
    lines = exported(world, shell)
    sheet = world.monitor.get("/v1/audit-entries", format="csv", study=world.study, site="A").text
    joined = shell.page(JOINER, shell.file("entries.csv", sheet))
    assert (joined.stderr, joined.stdout) == ("", "".join(lines))


def test_a_checkpoint_finds_what_was_cut_off_an_export_of_one_chain(world: World, shell: Shell) -> None:
    lines = exported(world, shell)
    checkpoint = shell.file("heads.jws", shell.audit("checkpoint")[1])
    jwks = shell.file("jwks.json", world.registry.client.get("/.well-known/jwks.json").text)
    held = ("--checkpoint", checkpoint, "--jwks", jwks, "--chain", str(chain_of(lines[0])))
    assert shell.audit("verify", "--file", shell.file("whole.jsonl", "".join(lines)), *held)[0] == 0
    assert shell.audit("verify", "--checkpoint", checkpoint)[0] == 0
    code, said = shell.audit("verify", "--file", shell.file("cut.jsonl", "".join(lines[:-1])), *held)
    assert code == 1
    assert f"entry {len(lines)} is missing: the checkpoint stands at entry {len(lines)}" in said


def test_a_checkpoint_finds_every_chain_that_an_export_lacks(world: World, shell: Shell) -> None:
    exported(world, shell)
    lines = shell.audit("export")[1].splitlines(keepends=True)
    checkpoint = shell.file("heads.jws", shell.audit("checkpoint")[1])
    lengths = Counter(chain_of(line) for line in lines)
    assert len(lengths) > 1
    for gone, length in lengths.items():
        cut = shell.file("cut.jsonl", "".join(line for line in lines if chain_of(line) != gone))
        said = f"chain of chain {gone}: 0 entries, entry 1 is missing: the checkpoint stands at entry {length}\n"
        assert shell.audit("verify", "--file", cut)[0] == 0, "without a checkpoint nobody can know"
        found = shell.audit("verify", "--file", cut, "--checkpoint", checkpoint)
        assert (found[0], said in found[1]) == (1, True)
        assert shell.audit("verify", "--file", cut, "--checkpoint", checkpoint, "--chain", str(gone)) == (1, said)


def test_a_file_without_entries_is_no_whole_export(world: World, shell: Shell) -> None:
    lines = exported(world, shell)
    checkpoint = shell.file("heads.jws", shell.audit("checkpoint")[1])
    empty, full = shell.file("empty.jsonl", ""), shell.file("full.jsonl", "".join(lines))
    assert shell.audit("verify", "--file", empty) == (2, "the file holds no entry\n")
    assert shell.audit("verify", "--file", empty, "--checkpoint", checkpoint)[0] == 1
    assert shell.audit("verify", "--file", full, "--chain", "4711") == (2, "the file holds no entry of chain 4711\n")
    assert shell.audit("verify", "--chain", str(chain_of(lines[0])))[0] == 2, "the database is verified as a whole"


def test_a_checkpoint_that_was_changed_or_is_something_else_is_refused(world: World, shell: Shell) -> None:
    signed = shell.audit("checkpoint")[1].strip()
    header, body, signature = signed.split(".")
    keyring = world.registry.app.state.keyring
    for forged in (
        f"{header}.{body[:-2]}AA.{signature}",
        f"{header}.{body}.{signature[:-6]}AAAAAA",
        f"{signed[:-1]}{chr(ord(signed[-1]) + 1)}",  # the same signature, written in another way
        statements.sign(keyring, "something-else+jwt", {"heads": []}),
        world.staff_a.token,
        "not a checkpoint",
    ):
        code, said = shell.audit("verify", "--checkpoint", shell.file("forged.jws", forged))
        assert (code, said.strip()) == (1, "the file is not a checkpoint, or was changed")


def test_a_checkpoint_outlives_the_rotation_of_keys_unless_its_key_leaked(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(world, shell)
    settings = Settings(environment="demo", key_file=shell.folder / "keys.json")
    shell.file("keys.json", world.registry.app.state.settings.key_file.read_text())
    settings.key_file.chmod(0o600)
    monkeypatch.setenv("REGISTRY_KEY_FILE", str(settings.key_file))
    held = ("verify", "--checkpoint", shell.file("heads.jws", shell.audit("checkpoint")[1]))
    first = read_key_file(settings)
    made, used, gone = (datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3))
    second = replace_key_file(settings, lambda file: rotated(rotated(file, "signing", made), "signing", used))
    assert shell.audit(*held)[0] == 0
    replace_key_file(settings, lambda _: retired(second, first.signing[0].kid, gone, 900))
    assert shell.audit(*held)[0] == 0
    replace_key_file(settings, lambda _: retired(second, first.signing[0].kid, gone, 900, now=True))
    code, said = shell.audit(*held)
    assert (code, "with a key that is not known here" in said) == (1, True)


def test_a_chain_that_is_not_there_cannot_be_exported(world: World, shell: Shell) -> None:
    assert shell.audit("export", "--chain", "NO/WHERE")[0] == 2
