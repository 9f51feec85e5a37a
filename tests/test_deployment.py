"""The Dockerfile and compose.yaml do what they promise; the image's steps are run as commands on what it copies."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml

from app import __version__, cli
from app.settings import Settings
from registry_client.uploads import BULK_BYTES, BULK_LINES
from tests.postgres import as_server, new_database
from tests.server import PASSWORD, ROOT, free_port

SETTINGS = {f"REGISTRY_{name.upper()}" for name in Settings.model_fields}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continuation lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def last_stage() -> list[tuple[str, str]]:
    every = instructions()
    return every[max(index for index, (word, _) in enumerate(every) if word == "FROM") :]


def test_the_images_are_pinned_to_a_named_release() -> None:
    assert len(of("FROM")) == 3
    for image in [*of("FROM"), *(service["image"] for service in compose()["services"].values())]:
        name, _, tag = image.split(" ")[0].partition(":")
        assert name
        assert re.match(r"\d", tag), f"{image} names no release"


def test_the_image_runs_as_nobody_special_and_takes_over_only_what_was_built() -> None:
    stage = last_stage()
    assert stage[-1][0] == "USER"
    assert stage[-1][1] not in {"root", "0"}
    assert all(rest.startswith("--from=build ") for word, rest in stage if word == "COPY")
    assert not of("ADD")
    assert not [step for step in of("RUN") if re.search(r"gcc|build-essential", step)]
    assert not re.search(r"apt-get|apk ", str(stage))


def test_every_installation_is_hashed_or_offline() -> None:
    steps = [step for run in of("RUN") for step in run.split("&&") if re.search(r"\bpip\b.*\binstall\b", step)]
    assert len(steps) == 2
    for step in steps:
        assert "--require-hashes" in step or {"--no-index", "--no-deps"} <= set(step.split()), step


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for rest in of("COPY") if not rest.startswith("--from") for name in rest.split()[:-1]}
    assert copied == kept
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image holds of the project, in a folder of its own."""
    folder = tmp_path_factory.mktemp("image")
    for rest in of("COPY"):
        if not rest.startswith("--from"):
            *names, target = rest.split()
            for name in names:
                _copy(ROOT / name, folder / target if len(names) == 1 else folder / target / name)
    [compiling] = [step.split()[1:] for run in of("RUN") for step in run.split("&&") if " compileall " in step]
    subprocess.run([sys.executable, *compiling], cwd=folder, check=True)
    return folder


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def test_the_copied_files_are_enough_to_install_the_command(image: Path) -> None:
    build = "from hatchling.build import build_editable; print(build_editable('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=image, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"research_registry-{__version__}-py3-none-any.whl"
    scripts = tomllib.loads((image / "pyproject.toml").read_text())["project"]["scripts"]
    clients = {"registry-analyst": "registry_client.analyst_cli:main", "registry-site": "registry_client.cli:main"}
    assert scripts == {"registry": "app.cli:main", **clients}


def test_a_wheel_is_whole_and_brings_the_migrations(image: Path) -> None:
    build = "from hatchling.build import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=image, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(image / done.stdout.strip()) as wheel:
        carried = {Path(name).name for name in wheel.namelist() if name.startswith("migrations/versions/")}
        assert carried == {file.name for file in (ROOT / "migrations/versions").glob("*.py")}
        assert {"migrations/env.py", "app/cli.py"} <= set(wheel.namelist())


@pytest.fixture
def container(image: Path, tmp_path: Path, postgres_url: str) -> Iterator[dict[str, str]]:
    """The environment of the image and of compose.yaml's services, over a fresh PostgreSQL database."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    given = dict(item.split("=", 1) for item in " ".join(of("ENV")).split())
    with new_database(postgres_url) as url:
        yield {
            **inherited,
            **{name: value for name, value in given.items() if name.startswith("REGISTRY_")},
            "REGISTRY_KEY_FILE": str(tmp_path / Path(given["REGISTRY_KEY_FILE"]).name),
            "REGISTRY_DATABASE_URL": as_server(url),
            "REGISTRY_OWNER_DATABASE_URL": url,
            "REGISTRY_ADMIN_PASSWORD": PASSWORD,
            "PYTHONPATH": str(image),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def entrypoint(arguments: list[str]) -> list[str]:
    assert json.loads(of("ENTRYPOINT")[0]) == ["registry"]
    return [sys.executable, "-c", "from app.cli import main; main()", *arguments]


def test_the_services_run_in_order_and_the_healthcheck_agrees(container: dict[str, str], tmp_path: Path) -> None:
    services = compose()["services"]
    for name in ("init", "init", "migrate"):
        subprocess.run(entrypoint(services[name]["command"]), env=container, cwd=tmp_path, check=True, timeout=300)
    port = str(free_port())
    command = services["app"]["command"]
    assert json.loads(of("CMD")[-1]) == command[:5] == ["serve", "--host", command[2], "--port", "8000"]
    serve = ["serve", "--host", "127.0.0.1", "--port", port, *command[5:]]
    check = json.loads(of("HEALTHCHECK")[0].partition(" CMD ")[2].replace(":8000/", f":{port}/"))
    healthy = [sys.executable, *check[1:]]
    quiet: dict[str, Any] = {
        "env": container,
        "cwd": tmp_path,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    assert subprocess.run(healthy, check=False, **quiet).returncode != 0
    server = subprocess.Popen(entrypoint(serve), **quiet)
    try:
        deadline = time.monotonic() + 300
        while subprocess.run(healthy, check=False, **quiet).returncode != 0:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert signed_in(port)
    finally:
        server.terminate()
        assert server.wait(40) in {0, -15}


def signed_in(port: str) -> bool:
    """Whether the admin that `init` made can sign in."""
    body = {"username": "admin", "password": PASSWORD}
    return httpx.post(f"http://127.0.0.1:{port}/v1/auth/sessions", json=body, timeout=20).status_code == 201


def test_a_server_without_tables_or_keys_does_not_start(container: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        entrypoint(["serve", "--port", str(free_port())]), env=container, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"registry init" in done.stderr


@cache
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_compose_names_only_settings_that_exist_and_no_secret() -> None:
    named = set()
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            named.add(name)
            if "PASSWORD" in name:
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), f"{name} has a default"
            else:
                assert "$" not in value
    registry = {name for name in named if name.startswith("REGISTRY_")}
    assert registry
    assert registry <= SETTINGS
    assert set(re.findall(r"REGISTRY_\w+", (ROOT / "Dockerfile").read_text())) <= SETTINGS


def test_compose_starts_what_the_command_offers() -> None:
    own = [service for service in compose()["services"].values() if service.get("build")]
    typed = [shlex.join(service["command"]) for service in own if "entrypoint" not in service]
    typed += [line for service in own if "entrypoint" in service for line in _of_the_loop(service["command"][0])]
    assert [line.split()[0] for line in typed[:4]] == ["init", "migrate", "serve", "deliver"]
    assert len(typed) == 8
    for line in typed:
        offered(line)
    for service in own:
        assert service["image"].partition(":")[2] == __version__


def _of_the_loop(script: str) -> list[str]:
    """What `while :; do registry ...; registry ...; sleep 86400; done` runs of ours."""
    return [
        step.strip().removeprefix("do ").removeprefix("registry ") for step in script.split(";") if "registry " in step
    ]


def offered(line: str) -> None:
    """Raises when `registry` has no such command, or not with these arguments."""
    command: Any = typer.main.get_command(cli.app)
    name, *arguments = shlex.split(line)
    command = command.commands[name]
    while hasattr(command, "commands"):
        command, *arguments = command.commands[arguments[0]], *arguments[1:]
    command.make_context(name, arguments)


def test_compose_serves_the_proxy_only_and_after_the_migration_only() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    assert {name for name, service in services.items() if "ports" in service} == {"proxy"}
    assert services["app"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["depends_on"]["db"]["condition"] == "service_healthy"
    assert services["init"]["profiles"] == ["setup"]
    mounted = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    outside = {"./deploy/nginx/registry.conf", "${TLS_FOLDER"}
    assert mounted - outside == set(volumes)
    assert (ROOT / "deploy/nginx/registry.conf").is_file()


def test_the_proxy_of_compose_finds_a_server_that_was_made_anew() -> None:
    """It gets another address then, and nginx by itself looks up a name once."""
    (upstream,) = compose()["configs"].values()
    assert "server app:8000 resolve;" in upstream["content"]
    assert "resolver 127.0.0.11 " in upstream["content"]  # Docker's own
    assert re.match(r"nginx:(1\.2[89]|1\.[3-9]|[2-9])", compose()["services"]["proxy"]["image"])  # 1.27.3 and newer


UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_units_start_what_the_command_offers_and_hold_it_back(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    ours = [line.partition("bin/registry ")[2] for line in lines if line.startswith("ExecStart=/opt/registry/")]
    for line in ours:
        offered(line)
    if ours:
        assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "UMask=0077"} <= set(lines)
        assert {line.partition("=")[2] for line in lines if line.startswith("User=")} <= {"registry", "registry-backup"}


def test_the_servers_user_sees_the_backups_and_cannot_write_there() -> None:
    backing_up, settings = (
        (ROOT / "deploy/systemd" / name).read_text() for name in ("registry-backup.service", "registry.env")
    )
    (folder,) = re.findall(r"^REGISTRY_BACKUP_FOLDER=(.+)$", settings, re.MULTILINE)
    assert f"registry backup daily {folder} " in backing_up
    assert {"StateDirectoryMode=0750", "Group=registry-backup"} <= set(backing_up.splitlines())
    assert "useradd --system --groups registry-backup registry`" in (ROOT / "docs/operations.md").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in (ROOT / "deploy/systemd").glob("registry*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/registry/.venv/bin/registry", "/bin/true"))
    units = [str(unit) for unit in tmp_path.glob("*.service")] + [str(unit) for unit in tmp_path.glob("*.timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "registry" in line]) == (0, [])


def test_the_environment_files_name_only_settings_that_exist_and_no_secret() -> None:
    for file in (ROOT / "deploy/systemd").glob("*.env"):
        given = dict(re.findall(r"^(?:# )?(\w+)=(.*)$", file.read_text(), re.MULTILINE))
        assert {name for name in given if name.startswith("REGISTRY_")} <= SETTINGS
        assert not [
            name for name in given if "PASSWORD" in name or "@" in given[name].partition("://")[2].partition(":")[2]
        ]


A_WHOLE_VISIT = 2_100
"""Bytes of a baseline visit with each of its nine questionnaires, as a line of an upload."""


def test_the_proxy_lets_through_what_the_server_takes() -> None:
    text = (ROOT / "deploy/nginx/registry.conf").read_text()
    limit, of_bulk = (int(limit) * 2**20 for limit in re.findall(r"client_max_body_size (\d+)m;", text))
    assert limit == Settings.model_fields["max_body_bytes"].default
    assert of_bulk / Settings.model_fields["max_bulk_lines"].default > 4 * A_WHOLE_VISIT
    assert BULK_LINES * A_WHOLE_VISIT > limit > BULK_BYTES  # so that the client goes by bytes too
    of_bulk_only, of_signing_in = re.findall(r"location ~ (\S+) {", text)
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    assert {path for path in paths if re.search(of_bulk_only, path)} == {path for path in paths if "/bulk" in path}
    signing_in = {path for path in paths if re.search(of_signing_in, path)}
    assert signing_in == {path for path in paths if path.startswith("/v1/auth/")} != set()
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in text  # never what the client claims
    assert text.count("access_log off;") == text.count("server {")


def test_the_proxy_finds_the_registry_with_compose_and_without() -> None:
    asked = set(re.findall(r"proxy_pass http://(\w+);", (ROOT / "deploy/nginx/registry.conf").read_text()))
    (of_compose,) = (config["content"] for config in compose()["configs"].values())
    for upstream in ((ROOT / "deploy/nginx/upstream.conf").read_text(), of_compose):
        assert set(re.findall(r"upstream (\w+) {", upstream)) == asked
