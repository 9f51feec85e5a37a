"""The `registry` file at the root: what it asks of Python, when it installs, and with which tool."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

WRAPPER = Path(__file__).resolve().parent.parent / "registry"


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The wrapper in a fresh checkout: locks and metadata, no environment yet."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("registry_wrapper", str(WRAPPER))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", "requirements/runtime.txt", "requirements/dev.txt"):
        (tmp_path / name).write_text(f"first {name}")
    for name, path in {
        "ROOT": tmp_path,
        "VENV": tmp_path / ".venv",
        "PYTHON": tmp_path / ".venv/bin/python",
        "COMMAND": tmp_path / ".venv/bin/registry",
        "STAMP": tmp_path / ".venv/installed",
    }.items():
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, path)
    return module


@pytest.fixture
def commands(wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the wrapper would have run, each with success."""
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        ran.append(command)
        wrapper.VENV.mkdir(exist_ok=True)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(wrapper.subprocess, "run", run)
    monkeypatch.setattr("venv.create", lambda folder, **_: run(["venv", str(folder)]))
    return ran


def make_environment(wrapper: ModuleType, kind: str) -> None:
    wrapper.PYTHON.parent.mkdir(parents=True)
    wrapper.PYTHON.touch()
    wrapper.COMMAND.touch()
    wrapper.STAMP.write_text(wrapper.fingerprint(kind))


def test_an_old_python_is_refused_in_one_sentence(wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed"):
        wrapper.main()


def test_a_missing_venv_module_says_what_to_install(wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv"):
        wrapper.make_venv()


@pytest.mark.parametrize("name", ["requirements/runtime.txt", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed_again(wrapper: ModuleType, name: str) -> None:
    make_environment(wrapper, "runtime")
    assert wrapper.installed("runtime")
    (wrapper.ROOT / name).write_text("second")
    assert not wrapper.installed("runtime")


def test_an_environment_without_python_is_made_again(wrapper: ModuleType) -> None:
    make_environment(wrapper, "runtime")
    wrapper.PYTHON.unlink()
    assert not wrapper.installed("runtime")


def test_the_development_environment_serves_the_runtime_but_not_the_other_way(wrapper: ModuleType) -> None:
    make_environment(wrapper, "dev")
    assert wrapper.installed("runtime")
    wrapper.STAMP.write_text(wrapper.fingerprint("runtime"))
    assert not wrapper.installed("dev")


@pytest.mark.parametrize(("found", "tool"), [("/usr/bin/uv", "uv"), (None, "pip")])
def test_uv_is_used_where_it_is_and_pip_where_not(
    wrapper: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, found: str | None, tool: str
) -> None:
    monkeypatch.setattr(wrapper.shutil, "which", lambda _: found)
    wrapper.install("runtime")
    made, locked, project = commands
    assert made == ["venv", str(wrapper.VENV)] or made[:2] == [found, "venv"]
    assert (locked[0] == found) if found else (locked[:3] == [str(wrapper.PYTHON), "-m", tool])
    assert locked[-3:] == ["--require-hashes", "-r", str(wrapper.ROOT / "requirements/runtime.txt")]
    assert {"--no-deps", "--no-build-isolation"} < set(project)
    assert project[-2:] == ["-e", str(wrapper.ROOT)]


def test_the_stamp_is_written_only_after_everything_was_installed(
    wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_environment(wrapper, "dev")
    monkeypatch.setattr(wrapper.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    with pytest.raises(SystemExit, match="failed; see above"):
        wrapper.install("runtime")
    assert not wrapper.STAMP.exists()


@pytest.mark.parametrize(("arguments", "kind"), [(["test", "-x"], "dev"), (["demo"], "runtime"), ([], "runtime")])
def test_only_the_tests_need_the_development_lock(
    wrapper: ModuleType, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: str
) -> None:
    installed: list[str] = []
    handed_over: list[list[str]] = []
    monkeypatch.setattr(wrapper, "install", installed.append)
    monkeypatch.setattr(wrapper.os, "execv", lambda _, line: handed_over.append(line))
    monkeypatch.setattr(sys, "argv", ["registry", *arguments])
    wrapper.main()
    assert installed == [kind]
    assert handed_over == [["registry", *arguments]]


UV = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
asked = sys.argv[1:]
if asked[0] == "venv":
    os.makedirs(asked[-1] + "/bin")
    os.symlink(sys.executable, asked[-1] + "/bin/python")
elif "-e" in asked:
    script = Path(asked[asked.index("--python") + 1]).with_name("registry")
    script.write_text("#!/bin/sh\\necho " + asked[-1])
    script.chmod(0o755)
else:
    Path(os.environ["INSTALLED"]).open("a").write("once ")
    time.sleep(float(os.environ.get("SLOW", 0)))
    sys.exit(os.environ.get("BROKEN_OFF"))
"""
"""Instead of uv: what it installs says which folder's code it runs."""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh checkout, whose `registry` can be run."""
    folder, tools = tmp_path / "checkout", tmp_path / "tools"
    (folder / "requirements").mkdir(parents=True)
    tools.mkdir()
    (tools / "uv").write_text(UV)
    (tools / "uv").chmod(0o755)
    shutil.copy(WRAPPER, folder)
    for name in ("pyproject.toml", "requirements/runtime.txt", "requirements/dev.txt"):
        (folder / name).touch()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("INSTALLED", str(tmp_path / "installed"))
    return folder


def ran(folder: Path) -> str:
    """Which folder's code its `registry` runs."""
    done = subprocess.run([sys.executable, folder / "registry"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_after_an_installation_that_was_broken_off_it_begins_anew(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN_OFF", "1")
    with pytest.raises(subprocess.CalledProcessError):
        ran(checkout)
    monkeypatch.delenv("BROKEN_OFF")
    half = checkout / ".venv/half"
    half.touch()
    assert ran(checkout) == str(checkout)
    assert not half.exists()


@pytest.mark.parametrize("brought", [shutil.move, shutil.copytree])
def test_in_another_folder_it_runs_that_folders_code(checkout: Path, brought: Callable[[Path, Path], object]) -> None:
    assert ran(checkout) == str(checkout)
    other = checkout.with_name("other")
    brought(checkout, other)
    assert ran(other) == str(other)


def test_two_first_commands_at_once_install_once(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW", "0.3")
    with ThreadPoolExecutor() as both:
        assert list(both.map(ran, [checkout, checkout])) == [str(checkout)] * 2
    assert Path(os.environ["INSTALLED"]).read_text() == "once "
