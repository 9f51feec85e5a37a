"""Compare the figures that the registry shows with the source: `python -m bench.cdisc.compare --base-url URL`.

One column is computed from the source tables, one by paging through the API as a monitor, one from the files of a
de-identified extract as an analyst. A cell is empty if its figure is not shown there. A difference is marked, and the
exit code is then 1.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cdisc import independent, seen
from bench.cdisc.replay import arguments, publish
from bench.cdisc.report import DATA, table
from bench.cdisc.setup import Admin
from bench.cdisc.source import read_tables, sample

RECORDS = ("participants", "whole record equal to the source")


@dataclass(frozen=True)
class Comparison:
    """One figure in three columns; None if it is not shown to a reader."""

    section: str
    item: str
    source: int | float | None
    monitor: int | float | None
    analyst: int | float | None

    @property
    def equal(self) -> bool:
        return {value for value in (self.monitor, self.analyst) if value is not None} <= {self.source}


def compare(admin: Admin, chosen: Collection[str] | None = None, keep: Path | None = None) -> list[Comparison]:
    """Every figure of the study; `chosen` USUBJIDs are those that were sent, none named: all. The files of the extract
    are left in `keep`."""
    source = independent.Source(chosen)
    with admin.people() as people:
        lists = seen.listed(people.monitor, admin.study)
        files = seen.extract_files(people, admin.study, keep)
    monitor, analyst = seen.by_monitor(lists), seen.by_analyst(files, lists.names)
    expected, released = independent.figures(source), independent.released(source)
    equal = (independent.records(source) & seen.records(lists)).total()
    only_analyst = {section for section, _ in released}
    found = [Comparison(*RECORDS, source.people.height, equal, None)]
    for section, item in sorted({*expected, *released, *monitor, *analyst}):
        name = section, item
        found.append(
            Comparison(
                section,
                item,
                released.get(name, 0) if section in only_analyst else expected.get(name, 0),
                None if section in only_analyst else monitor.get(name, 0),
                None if section in seen.NOT_RELEASED else analyst.get(name, 0),
            )
        )
    return found


def differences(found: Sequence[Comparison]) -> list[Comparison]:
    return [one for one in found if not one.equal]


def text(found: Sequence[Comparison]) -> str:
    """All figures as a table, differences marked."""
    rows = (
        (one.section, one.item, *map(_cell, (one.source, one.monitor, one.analyst)), "" if one.equal else "DIFFERS")
        for one in found
    )
    head = ("figure", "of", "source", "monitor", "analyst", "")
    counted = f"{len(found)} figures, {len(differences(found))} differences"
    return f"Data: {DATA}\n\n{table(head, rows)}\n\n{counted}"


def _cell(value: int | float | None) -> str:
    return "" if value is None else f"{value:,}"


def main() -> int:
    """Exit code 1 on any difference."""
    parser = arguments("Compare the registry's pilot study with its source")
    parser.add_argument("--folder", type=Path, help="where to leave the files of the analyst's extract")
    options = parser.parse_args()
    chosen = sample(read_tables(), options.subjects) if options.subjects else None
    with Admin(options.base_url, options.admin_username, options.admin_password, options.study) as admin:
        found = compare(admin, chosen, options.folder)
    publish(text(found), options.report)
    return 1 if differences(found) else 0


if __name__ == "__main__":
    sys.exit(main())
