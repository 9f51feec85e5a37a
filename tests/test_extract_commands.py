"""`registry extracts`, as an operator types it."""

import subprocess
from collections.abc import Callable

import pytest

from app.services import building
from tests.builds import built, dies_after, status
from tests.server import typed
from tests.world import World

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(world: World) -> Run:
    settings = world.registry.app.state.settings
    variables = {
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_KEY_FILE": str(settings.key_file),
        "REGISTRY_DATABASE_URL": settings.database_url,
        "REGISTRY_OWNER_DATABASE_URL": settings.owner_database_url or "",
    }
    given = {name: value for name, value in variables.items() if value}
    return lambda *arguments: typed(given, "extracts", *arguments)


def test_build_says_what_could_not_be_built_and_tries_it_once_more_when_asked_again(
    world: World, waiting: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dies_after(patch, 0, ValueError)
        patch.setattr(building, "ATTEMPTS", 1)
        failed = run("build")
    assert (failed.returncode, failed.stdout.split(maxsplit=1)[0]) == (1, "0"), failed.stderr
    assert "could not be built" in failed.stdout
    assert status(world, waiting) == "failed"
    done = run("build")
    assert (done.returncode, done.stdout.endswith("extracts built.\n")) == (0, True), done.stderr
    assert status(world, waiting) == "ready"
    assert run("build").stdout == "0 extracts built.\n"
    assert not built(world)
