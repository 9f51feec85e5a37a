"""`python -m bench.targets`: every target of docs/performance.md in one interleaved run on one engine; a table, and a
JSON file. It fails on any answer that is not 2xx, on a row lost or doubled, and on a broken chain. On a busy machine it
prints the measurements without a verdict.

Exit code 0: all targets are met; 1: one is not; 3: no verdict.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import machine, measure
from bench.bulk import bulk
from bench.cases import BARE, PAGE, VISIT, page_of
from bench.downloads import downloads
from bench.ground import Ground, Group, Target
from bench.growth import growth
from bench.hot import floors, idiomatic, synchronous, workers, writers
from bench.lists import yardstick
from bench.load import Request, run_at_rate
from bench.measure import CLIENTS, Figures
from bench.walls import walls

GROUPS: Mapping[str, Callable[[Ground], Group]] = {
    one.__name__: one
    for one in (floors, synchronous, idiomatic, writers, workers, yardstick, bulk, walls, growth, downloads)
}
STEADY = 0.6
"""The fixed rate, of the highest that was found."""


def main() -> None:
    options = _options()
    found = measured(options)
    _print(found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1, default=str) + "\n")
    sys.exit(3 if found["busy"] else 0 if all(one["met"] for one in found["targets"]) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument(
        "--database-url", help="an existing PostgreSQL server, as a superuser; else its wheel brings one"
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=[*GROUPS], help="floors are always measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--people", type=int, default=15_000, help="of the main registry, with 7 visits each")
    parser.add_argument("--sites", type=int, default=4, help="of the main registry")
    parser.add_argument("--small", type=int, default=10_500, help="rows of the small registry")
    parser.add_argument("--large", type=int, default=1_050_000, help="rows of the large one")
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that one run finds. Raises NotAccepted, Disagreement."""
    described = machine.describe()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ground = Ground(options, Path(folder), stack)
        groups = [make(ground) for name, make in GROUPS.items() if name == "floors" or name in options.only]
        cases = [case for group in groups for case in group.cases]
        databases = measure.database_processes(ground.main.settings)
        found = measure.interleaved(cases, options.rounds, options.seconds, databases)
        shown = measure.medians(found)
        steady = _at_fixed_rate(ground, shown, options)
        stored = measure.verify(cases, found, {ground.main.settings.database_url: steady[VISIT]["answered"]})
    described["load_after"] = os.getloadavg()[0]
    return {
        "engine": options.engine,
        "options": vars(options),
        "machine": described,
        "busy": measure.busy(shown, BARE),
        "targets": [held(target, found) for group in groups for target in group.targets],
        "fixed_rate": steady,
        "stored": stored,
        "cases": shown,
    }


def held(target: Target, found: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """The median of the rounds' ratios, and how far they lie apart."""
    case, figure = target.over
    ratios = [
        one[figure]
        / (target.under if isinstance(target.under, float) else found[target.under[0]][number][target.under[1]])
        for number, one in enumerate(found[case])
    ][1:]
    ratio = statistics.median(ratios)
    bound = {"least": target.least} if target.least is not None else {"most": target.most}
    return {"what": target.what, **bound, "ratio": ratio, "range": [min(ratios), max(ratios)], "met": target.met(ratio)}


def _at_fixed_rate(ground: Ground, shown: Mapping[str, Figures], options: argparse.Namespace) -> dict[str, Any]:
    """What users wait while the server is not at its limit."""
    main = ground.main
    requests: dict[str, Request] = {VISIT: main.post_visit(), PAGE: main.get(page_of(main))}
    taken = {}
    for name, request in requests.items():
        rate, seconds = shown[name]["per_second"] * STEADY, options.seconds * options.rounds
        one = run_at_rate(main.server.base_url, request, CLIENTS, seconds, rate)
        taken[name] = {
            "answered": one.answered,
            "per_second": rate,
            "p50_ms": one.latency_ms(0.5),
            "p99_ms": one.latency_ms(0.99),
        }
    return taken


def _print(found: dict[str, Any]) -> None:
    print(f"\n{found['engine']}, {found['machine']['cpu']}, fdatasync {found['machine']['fdatasync_us']} us")
    headings = ("/s", "p50 ms", "p99 ms", "server us", "db us", "spread", "client")
    print(f"{'case':44}" + "".join(f"{one:>10}" for one in headings))
    for name, one in found["cases"].items():
        figures = (one[key] for key in ("per_second", "p50_ms", "p99_ms", "server_us", "database_us"))
        shares = f"{one['spread']:10.0%}{one['client_share']:10.0%}"
        print(f"{name:44}" + "".join(f"{figure:10.1f}" for figure in figures) + shares)
    for name, one in found["fixed_rate"].items():
        print(f"{name} at {one['per_second']:.0f}/s: p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms")
    print(f"\n{'target':60}{'wanted':>10}{'measured':>10}{'range':>16}  met")
    for one in found["targets"]:
        wanted = f">= {one['least']}" if "least" in one else f"<= {one['most']}"
        low, high = one["range"]
        verdict = "-" if found["busy"] else "yes" if one["met"] else "NO"
        print(f"{one['what']:60}{wanted:>10}{one['ratio']:10.2f}{f'{low:.2f} - {high:.2f}':>16}  {verdict}")
    if found["busy"]:
        print(f"NO VERDICT: {found['busy']}")


if __name__ == "__main__":
    main()
