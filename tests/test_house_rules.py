"""The rules of the house that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.routing import RouteContext, iter_route_contexts
from sqlmodel import SQLModel

import app.models  # noqa: F401 - fills the metadata
from app.errors import RegistryError, every_refusal
from app.privacy.fields import FIELDS
from app.web.route import StrictRoute
from tests.world import World

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "app").rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 80


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["importlinter.cli", "lint-imports"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_code_keeps_its_checks(command: list[str]) -> None:
    name, *arguments = command
    runner = ["-c", "from importlinter.cli import lint_imports_command as run; run()"]
    line = [sys.executable, *(runner if name == "importlinter.cli" else ["-m", name, *arguments])]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def calls(tree: ast.AST, method: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]


def test_only_the_database_module_commits() -> None:
    assert len(SOURCES) > 50
    committing = {path.relative_to(ROOT).as_posix() for path in SOURCES if calls(ast.parse(path.read_text()), "commit")}
    assert committing == {"app/database.py"}


def test_only_the_token_module_knows_python_jose() -> None:
    def imports_jose(path: Path) -> bool:
        return any(
            (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jose")
            or (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "jose" for name in node.names))
            for node in ast.walk(ast.parse(path.read_text()))
        )

    assert {path.name for path in SOURCES if imports_jose(path)} == {"jwt.py"}


def test_files_and_functions_stay_short() -> None:
    for path in [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= LONGEST_FILE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, f"{path}: {node.name}"


def test_every_column_of_every_table_is_classified() -> None:
    tables = {table.name: {column.name for column in table.columns} for table in SQLModel.metadata.sorted_tables}
    assert len(tables) >= 20
    assert {name: set(columns) for name, columns in FIELDS.items()} == tables


def test_every_refusal_has_a_code_and_a_sentence_of_its_own() -> None:
    import app.main  # noqa: F401 - loads every module that defines one

    refusals: list[type[RegistryError]] = list(every_refusal())
    assert len(refusals) > 35
    assert len({refusal.code() for refusal in refusals}) == len(refusals)
    assert all(refusal.detail().endswith(".") for refusal in refusals)
    assert all(400 <= refusal.status < 600 for refusal in refusals)


def test_what_is_raised_is_no_family() -> None:
    """Families are explained nowhere: neither in the table of codes nor at the address of their own."""
    import app.main  # noqa: F401 - loads every module that defines one

    raised = {
        getattr(named, "attr", None) or getattr(named, "id", None)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        for named in [node.exc.func if isinstance(node.exc, ast.Call) else node.exc]
    }
    explained = {refusal.__name__ for refusal in every_refusal()}
    families = {parent.__name__ for refusal in every_refusal() for parent in refusal.__mro__[1:]} - explained
    assert len(raised & explained) > 35
    assert not raised & families


def test_the_type_of_a_problem_is_an_address_that_explains_it(world: World) -> None:
    problem = world.monitor.get("/v1/visits/00000000-0000-4000-8000-000000000000").json()
    explained = world.registry.client.get(problem["type"])
    assert explained.json()["detail"] == problem["detail"]
    assert world.registry.client.get("/v1/problems/no_such_code").status_code == 404


def test_every_route_of_ours_is_strict_and_answers_in_its_own_thread(world: World) -> None:
    contexts = _routes(world)
    assert len(contexts) > 40
    assert all(isinstance(context.original_route, StrictRoute) for context in contexts)


def test_a_router_is_included_with_nothing_that_its_routes_do_not_ask_for_themselves(world: World) -> None:
    """StrictRoute serves what the route itself asks for: what was added to it from outside would only be described."""
    for context in _routes(world):
        described, own = context.dependant.dependencies, context.original_route.dependant.dependencies
        assert [part.call for part in described] == [part.call for part in own]


def _routes(world: World) -> list[RouteContext]:
    return [
        context
        for context in iter_route_contexts(world.registry.app.routes)
        if getattr(context.original_route, "dependant", None) is not None
    ]
