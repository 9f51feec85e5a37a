"""What somebody can learn from a bundle who has nothing but its files. Written apart from the registry: it imports none
of its rules, and counts everything anew."""

import csv
import io
import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations
from typing import Any

Row = dict[str, str]
CLASS = ("age_group", "sex", "race", "country", "status")


class Opened:
    """A downloaded bundle."""

    def __init__(self, content: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            self.moments = {info.date_time for info in archive.infolist()}
            self.files = {name: archive.read(name) for name in archive.namelist()}

    def table(self, name: str) -> list[Row]:
        return list(csv.DictReader(io.StringIO(self.files[f"{name}.csv"].decode())))

    @property
    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.files["risk_report.json"]))

    def classes(self) -> dict[tuple[str, ...], set[str]]:
        """The people who look alike."""
        found: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for row in self.table("participants"):
            found[tuple(row[name] for name in CLASS)].add(row["subject"])
        return found

    def k(self) -> int:
        return min(map(len, self.classes().values()))

    def serious_values(self) -> list[tuple[int, int]]:
        """Of each class: how many people there are, and how many of them are shown to have had a serious event."""
        serious = {row["subject"] for row in self.table("adverse_events") if row["serious"] == "Y"}
        return [(len(people), len(people & serious)) for people in self.classes().values()]

    def told_of_nearly_all(self, columns: Iterable[str]) -> list[tuple[str, str]]:
        """What is shown in these columns of adverse events of more than nine in ten of some class."""
        having: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in self.table("adverse_events"):
            for column in columns:
                having[column, row[column]].add(row["subject"])
        shown = ((one, people) for one, people in having.items() if one[1] not in {"", "OTHER"})
        return [
            one
            for one, people in shown
            for alike in self.classes().values()
            if 10 * len(people & alike) > 9 * len(alike)
        ]

    def unique(self, name: str, columns: Iterable[str] = ()) -> float:
        """The share of people, of those in a table, whose rows are nobody else's: in these columns, or in all."""
        theirs: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for row in self.table(name):
            wanted = list(columns) or [column for column in row if column != "subject"]
            theirs[row["subject"]].append(tuple(row[column] for column in wanted))
        sizes = Counter(tuple(sorted(rows)) for rows in theirs.values())
        return sum(size == 1 for size in sizes.values()) / len(theirs) if theirs else 0.0


def joins(one: list[Row], other: list[Row], columns: Iterable[str]) -> dict[tuple[str, ...], int]:
    """For every combination of columns: how many rows of one table meet exactly one of the other, and that one only
    them. Empty cells join nothing."""
    found = {}
    for count in range(1, len(wanted := list(columns)) + 1):
        for chosen in combinations(wanted, count):
            here, there = (Counter(tuple(row[name] for name in chosen) for row in rows) for rows in (one, other))
            met = [key for key, size in here.items() if size == 1 == there[key] and any(key)]
            if met:
                found[chosen] = len(met)
    return found


def rank_correlation(order: list[float]) -> float:
    """Spearman's, of the numbers with their places in the list."""
    n = len(order)
    ranks = {value: rank for rank, value in enumerate(sorted(order))}
    apart = sum((ranks[value] - place) ** 2 for place, value in enumerate(order))
    return 1 - 6 * apart / (n * (n * n - 1))
