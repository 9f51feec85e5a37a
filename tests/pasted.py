"""The commands of the documentation, run as if pasted into a shell."""

import re
import subprocess
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from tests.server import ROOT, typed

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, name: str) -> list[str]:
    """The blocks of a page that are fenced with this word."""
    return [code for kind, code in FENCE.findall((ROOT / page).read_text()) if kind == name]


def inline(page: str) -> list[str]:
    """The commands of ours within a page's sentences."""
    return [f"{' '.join(code.split())}\n" for code in re.findall(r"`(registry [^`]+)`", (ROOT / page).read_text())]


def pasted(scripts: list[str], given: Mapping[str, str]) -> str:
    """What it prints, in the present folder. Lines of ours run in this process, as a new one for each would take most
    of the time; what is between them runs in one shell each."""
    printed = ""
    whole_lines = re.sub(r"\\\n *", "", "".join(scripts)).splitlines()
    for ours, group in groupby(whole_lines, lambda line: line.startswith("registry ")):
        lines = list(group)
        printed += "".join(_registry(line, given) for line in lines) if ours else _shell("\n".join(lines), given)
    return printed


def _registry(line: str, given: Mapping[str, str]) -> str:
    command, _, file = line.partition(" > ")
    _, *arguments = _shell(f"printf '%s\\n' {command}", given).splitlines()
    done = typed(given, *arguments)
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    if file:
        Path(file).write_text(done.stdout)
    return done.stdout


def _shell(script: str, given: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout
