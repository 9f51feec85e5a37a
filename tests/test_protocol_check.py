"""`registry protocol check` and POST .../protocols find the same faults in the same file."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.protocol.schedule import FOLDER
from tests.world import World, protocol_definition

SHIPPED = sorted(Path(str(FOLDER)).glob("*.toml"))


def check(file: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["protocol", "check", str(file)])
    return done.exit_code, done.output


def spoiled() -> dict[str, Any]:
    plan = protocol_definition()
    plan["visits"][8]["anchor"] = "NOWHERE"
    plan["safety_rules"][0]["when"][0]["items"] = ["CSSRS_SLV_99"]
    plan["consents"][0]["scopes"].append("selfies")
    return plan


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_protocol_is_sound(file: Path) -> None:
    code, told = check(file)
    assert (code, " is valid: " in told) == (0, True)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_protocol_is_accepted(world: World, file: Path) -> None:
    definition = tomllib.loads(file.read_text())
    study = f"S{uuid4().hex[:12]}"
    assert world.admin.post("/v1/studies", {"code": study, "title": "A study"}).status_code == 201
    assert world.admin.post(f"/v1/studies/{study}/protocols", definition).status_code == 201


def test_both_name_the_same_faults_at_the_same_places(world: World, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(spoiled()))
    code, told = check(file)
    shown = set(re.findall(r": (/\S+): .* \((\w+)\)$", told, re.MULTILINE))
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", {**spoiled(), "version": "2"})
    assert (code, answer.status_code) == (1, 422)
    assert shown == {
        ("/visits/8/anchor", "unknown_anchor"),
        ("/consents/0/scopes/5", "unknown_scope"),
        ("/safety_rules/0/when/0/items/0", "unknown_item"),
    }
    assert {(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]} == shown


@pytest.mark.parametrize(
    ("name", "content"),
    [("plan.toml", b"code = "), ("plan.json", b"[1]"), ("plan.toml", b"\xff\xfe")],
    ids=["broken TOML", "no table", "not UTF-8"],
)
def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    code, told = check(file)
    assert code == 1
    assert name in told


def weekly(plan: dict[str, Any]) -> None:
    plan["visits"].append(
        {
            "code": "CALL",
            "name": "Weekly call",
            "kind": "phone",
            "anchor": "BL",
            "offset_days": 7,
            "window_before": 1,
            "window_after": 1,
            "repeats": 3,
            "repeat_every_days": 7,
        }
    )


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    plan = protocol_definition()
    change(plan)
    return plan


def test_each_repeat_is_checked_against_a_window_of_its_own(world: World) -> None:
    """Baseline 1 February: the third weekly call is planned for the 22nd, give or take a day."""
    version = {**changed(weekly), "version": "weekly"}
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", version).status_code == 201
    pid = world.enrolled(protocol_version="weekly")
    assert world.staff_a.post("/v1/visits", world.visit(pid, code="BL", on="2025-02-01")).status_code == 201
    third = {**world.visit(pid, code="CALL", on="2025-02-23"), "occurrence": 3}
    answer = world.staff_a.post("/v1/visits", third)
    assert answer.status_code == 201
    assert answer.json()["window"] == {"planned": "2025-02-22", "start": "2025-02-21", "end": "2025-02-23"}
    first = {**world.visit(pid, code="CALL", on="2025-02-23"), "occurrence": 1}
    assert world.staff_a.post("/v1/visits", first).json()["code"] == "visit_outside_window"
