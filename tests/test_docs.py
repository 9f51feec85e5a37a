"""What a stranger reads is true: generated tables are fresh, links lead somewhere, shown commands run."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import httpx
import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from sqlalchemy import text

import app.main  # noqa: F401 - loads every module that defines a refusal
from app.errors import every_refusal
from app.pid import display, normalise
from app.protocol.instruments import instruments
from app.settings import Settings
from tests.instruments_page import INSTRUMENTS, ITEMS, SCORES, instrument_rows, item_rows, score_rows
from tests.pasted import FENCE, blocks
from tests.server import free_port
from tests.world import World

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def refusals() -> str:
    """Every code that a client can meet."""
    own = {refusal for refusal in every_refusal() if refusal.__module__.startswith("app.")}
    rows = [[str(one.status), f"`{one.code()}`", one.detail()] for one in own]
    return table(["status", "code", "meaning"], sorted(rows))


def settings() -> str:
    """Every setting, with the sentence below it in app/settings.py."""
    meanings = attribute_docstrings(Settings)
    rows = []
    for name, field in Settings.model_fields.items():
        bounds = [limit for item in field.metadata for limit in bound(item)]
        default = f"`{field.default}`" if field.default != "" else ""
        rows.append([f"`REGISTRY_{name.upper()}`", choices(field.annotation, bounds), default, meanings.get(name, "")])
    return table(["variable", "takes", "default", "meaning"], rows)


def attribute_docstrings(model: type) -> dict[str, str]:
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def bound(item: Any) -> list[str]:
    for kind, sign, name in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le"), (Lt, "<", "lt")):
        if isinstance(item, kind):
            return [f"{sign} {getattr(item, name)}"]
    return []


def choices(annotation: Any, bounds: list[str]) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    words = {
        str: "text",
        str | None: "text",
        SecretStr | None: "text",
        int: "whole number",
        float: "number",
        Path: "path",
        Path | None: "path",
    }
    return ", ".join([words[annotation], *bounds])


def layers() -> str:
    """The layers as the import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed: list[str] = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return "\n".join(["```", *listed, "```"])


GENERATED: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/api.md", "refusals"): refusals,
    ("docs/architecture.md", "layers"): layers,
    ("docs/deployment.md", "settings"): settings,
    ("docs/instruments.md", "instruments"): lambda: table(INSTRUMENTS, instrument_rows()),
    ("docs/instruments.md", "items"): lambda: table(ITEMS, item_rows()),
    ("docs/instruments.md", "scores"): lambda: table(SCORES, score_rows()),
}


@pytest.mark.parametrize(("page", "name"), GENERATED)
def test_generated_parts_are_fresh(page: str, name: str) -> None:
    """With REGISTRY_UPDATE_DOCS=1 they are written anew."""
    path = ROOT / page
    old = path.read_text()
    before, opening, rest = old.partition(f"<!-- generated: {name} -->\n")
    _, closing, after = rest.partition("<!-- end -->")
    assert opening
    assert closing
    fresh = f"{before}{opening}{GENERATED[page, name]()}\n{closing}{after}"
    if os.environ.get("REGISTRY_UPDATE_DOCS") == "1":
        path.write_text(fresh)
    else:
        assert old == fresh, "stale: run REGISTRY_UPDATE_DOCS=1 ./registry test tests/test_docs.py"


def test_the_tables_are_not_empty() -> None:
    assert "| 404 | `not_found` |" in refusals()
    assert "| 409 | `visit_outside_window` |" in refusals()
    assert len(refusals().splitlines()) > 40
    assert "`REGISTRY_POOL_SIZE` | whole number, ≥ 1, ≤ 64 | `4` | Database connections" in settings()
    assert "app.routers\napp.services\n" in layers()
    assert len(instrument_rows()) == len(item_rows()) == len(instruments()) >= 30
    assert ["`MADRS/1`", "`total`", "sum of 10 items", "0 to 60", "no score"] in [row[:5] for row in score_rows()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(aim), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, found = set(), [ROOT / "README.md"]
    while found:
        page = found.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
        aims = [(page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link)]
        within = [aim for aim in aims if aim.suffix == ".md"] + [
            one for aim in aims for one in sorted(aim.glob("*.md"))
        ]
        found += [aim for aim in within if aim not in reached]
    lost = [page.relative_to(ROOT).as_posix() for page in PAGES if page not in reached]
    assert not lost, "link these from the README, or from a page that it links to"


def test_files_named_in_the_docs_exist() -> None:
    missing = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(r"`((?:app|tests|docs|bench|requirements|migrations)/[\w./-]+)", page.read_text())
        if not (ROOT / name).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_three_parts_on_one_screen(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert re.match(rf"# {page.name[:4]} \S", lines[0])
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
    assert len(lines) <= 45


def test_decisions_are_numbered_without_gaps() -> None:
    assert len(DECISIONS) >= 7
    assert [page.name[:4] for page in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    told = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "pypi" + ".org", "python" + "hosted", "index" + "-url="]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(tracked) > 100
    for path in tracked:
        if path.is_file():
            content = path.read_bytes().decode(errors="replace")
            assert not [word for word in told if word in content], path


def test_pids_in_the_docs_have_fitting_check_symbols() -> None:
    shown = {pid for page in PAGES for pid in re.findall(r"\b(?:[0-9A-Z]{4}-){2}[0-9A-Z]{4}\b", page.read_text())}
    assert shown
    assert {display(normalise(pid)) for pid in shown} == shown


def test_refusals_come_in_the_documented_order(world: World) -> None:
    good, at = {"Idempotency-Key": "1"}, "/v1/visits"
    visit = world.visit(world.enrolled(), on="2025-01-01")
    steps = [
        (world.registry.client.post(at, content=b"{", headers={"Content-Type": "application/json"}), 400),
        (world.registry.client.post(at, json={}), 401),
        (world.monitor.post(at, {}), 403),
        (world.registry.client.post(at, json={}, headers={"Authorization": f"Bearer {world.staff_a.token}"}), 400),
        (world.staff_a.post(at, {}, **good), 422),
        (world.staff_b.post(at, visit), 404),
        (world.staff_a.post(at, visit), 409),
    ]
    assert [answer.status_code for answer, _ in steps] == [status for _, status in steps]


def test_an_exported_chain_verifies_with_the_documented_lines(world: World, tmp_path: Path) -> None:
    pid = world.enrolled()
    world.staff_a.post("/v1/visits", world.visit(pid, deviation_reason="Zug fiel aus, wörtlich: „morgen“ \\ \n 9 °C"))
    world.admin.post("/v1/clients", {"name": "Site app", "organisation": "Site A"})
    (export,) = blocks("docs/audit.md", "sqlite" if world.on_sqlite else "postgresql")
    script, _ = blocks("docs/audit.md", "python")
    with world.registry.database.read() as session:
        lines = [one if isinstance(one, dict) else json.loads(one) for one in session.scalars(text(export))]
    entries = [entry for entry in lines if entry["site_id"] in {0, world.site_ids["A"]}]
    assert any("°" in entry["changes"] for entry in entries)
    assert len(script.splitlines()) <= 16

    def verified(chain: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "entries.jsonl"
        file.write_text("".join(json.dumps(entry) + "\n" for entry in chain))
        return subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=False)

    whole = verified(entries)
    assert whole.returncode == 0, whole.stderr
    assert f"chain 0: {sum(entry['site_id'] == 0 for entry in entries)} entries, head" in whole.stdout
    last = entries[-1]
    site = last["site_id"]
    assert f"chain {site}: entry {last['seq']} is" in verified([*entries[:-1], {**last, "reason": "made up"}]).stderr
    assert "is missing or was changed" in verified([*entries[:-2], last]).stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where `registry demo` runs."""
    folder = tmp_path_factory.mktemp("demo")
    told = folder / "demo-data" / "demo.json"
    line = [sys.executable, "-c", "from app.cli import main; main()", "demo", "--port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(line, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not (told.exists() and serves(json.loads(told.read_text() or "{}").get("base_url"))):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield folder
    finally:
        process.terminate()
        process.wait(30)


def serves(base_url: str | None) -> bool:
    try:
        return base_url is not None and httpx.get(f"{base_url}/readyz").is_success
    except httpx.TransportError:
        return False


def test_the_readmes_two_commands_are_the_demo_and_what_ci_runs() -> None:
    assert blocks("README.md", "sh")[:2] == ["./registry demo\n", "./registry test\n"]
    assert "./registry test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_readmes_tours_work_when_pasted_and_when_pasted_again(demo: Path) -> None:
    strict = 'curl() { command curl --fail-with-body "$@"; }\n'
    pasted = strict + "".join(blocks("README.md", "sh")[2:])
    for _ in range(2):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", pasted], cwd=demo, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        for shown in (b'"name":"total","value":21', b'"serious":true', b"subject,visit_code,occurrence,timing,"):
            assert shown in done.stdout
