"""The pilot's protocol file, as its site apps use it."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

UNSCHEDULED = "UNSCHEDULED"
_FILE = files("app.protocol") / "definitions" / "protocols" / "cdisc-pilot-1.toml"


@cache
def definition() -> dict[str, Any]:
    """The protocol as the body of a request."""
    return tomllib.loads(_FILE.read_text("utf-8"))


def visit_code(label: str) -> str:
    """The code of a visit by its source label, SV.VISIT. Raises KeyError for a label that the plan does not have."""
    return UNSCHEDULED if label.startswith(f"{UNSCHEDULED} ") else _codes()[label]


@cache
def depth(code: str) -> int:
    """The number of anchors between a visit and one without an anchor: windows can be computed in this order."""
    anchor = next(visit.get("anchor") for visit in definition()["visits"] if visit["code"] == code)
    return 0 if anchor in {None, code} else 1 + depth(anchor)


@cache
def _codes() -> dict[str, str]:
    return {visit["name"]: visit["code"] for visit in definition()["visits"]}
