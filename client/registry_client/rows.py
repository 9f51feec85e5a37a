"""Rows of a file that is uploaded again after it has grown or was corrected: each is stored once. One that has changed
since is told, with how to correct the record, and not stored beside it.

A second visit or outcome is refused by the registry itself, which says where the first one is. Two events may be alike
in all that is known of them, so an event of the same person that is in no row counts as one that a row may correct.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from registry_client.answers import Record
from registry_client.registry import Registry
from registry_client.uploads import Line

_EVENTS = "adverse-events"
_ELSEWHERE = frozenset({"participant", "outcomes"})
"""Columns that no correction of the record itself changes."""

Changes = Mapping[str, tuple[Any, Any]]
"""By column: what is in the registry, and what is in the row."""


class Row(NamedTuple):
    number: int
    """Its line in the file, where the head is 1."""

    key: str
    record: Record


class Upload:
    """Of events, the rows numbered in `new` are stored whatever they look like."""

    def __init__(
        self, registry: Registry, noun: str, columns: Sequence[str], *, new: Set[int] = frozenset(), dry_run: bool
    ) -> None:
        self._registry, self._noun, self._new, self._dry_run = registry, noun, new, dry_run
        self._columns = [name for name in columns if name != "participant"]

    def send(self, rows: Sequence[Row]) -> Iterator[tuple[Row, str | None]]:
        """Each row with why it is not stored (or valid); None: it is."""
        if self._noun == _EVENTS:
            tried = list(self._lines(rows, dry_run=True))
            unknown = [row for row, line in tried if line.result == "valid"]
            yield from ((row, self._fault(row, line)) for row, line in tried if line.result != "valid")
            alike = self._alike(unknown, {line.location for _, line in tried if line.location})
            yield from ((row, self._held(row, alike[row.key])) for row in unknown if row.key in alike)
            rows = [row for row in unknown if row.key not in alike]
        yield from ((row, self._fault(row, line)) for row, line in self._lines(rows, dry_run=self._dry_run))

    def _lines(self, rows: Sequence[Row], *, dry_run: bool) -> Iterator[tuple[Row, Line]]:
        sent = {row.key: row for row in rows}
        for line in self._registry.bulk(self._noun, [(row.key, row.record) for row in rows], dry_run=dry_run):
            yield sent[line.key], line

    def _fault(self, row: Row, line: Line) -> str | None:
        if line.problem is None:
            return None
        code, existing = line.problem["code"], line.problem.get("existing")
        if existing is None:
            places = "; ".join(f"{one['pointer']} {one['message']}" for one in line.problem.get("errors", []))
            return f"{code}: {places or line.problem['detail']}"
        there = self._registry.get(existing)
        changes = self._changes(row, there.body)
        return f"{code}: {self._cure(existing, there.etag, changes)}" if changes else None

    def _held(self, row: Row, event: Record) -> str | None:
        changes = self._changes(row, event)
        if not changes:
            return None
        address = _address(event)
        cure = self._cure(address, self._registry.get(address).etag, changes)
        return f"is it this event, which is in no row? {cure}\n  if it is another event: --new {row.number}"

    def _alike(self, rows: Sequence[Row], known: Set[str]) -> dict[str, Record]:
        """By the keys of rows that the registry does not know, events of the same participant that no row is known as:
        the one that a row is, in every column, and each other one to the row most like it."""
        by_person: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row.number not in self._new:
                by_person[str(row.record["participant"])].append(row)
        found: dict[str, Record] = {}
        for person, theirs in by_person.items():
            events = self._registry.pages(f"/v1/{_EVENTS}", participant=person, limit=500)
            found |= self._matched(theirs, [one for one in events if _address(one) not in known])
        return found

    def _matched(self, rows: Sequence[Row], events: Sequence[Record]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        left = list(events)
        for row in rows:
            same = next((one for one in left if not self._changes(row, one)), None)
            if same is not None:
                found[row.key] = same
                left.remove(same)
        others = [row for row in rows if row.key not in found]
        for event in left:
            far = {row.key: _distance(self._changes(row, event)) for row in others}
            for key, distance in far.items():
                if distance == min(far.values()):
                    found.setdefault(key, event)
        return found

    def _changes(self, row: Row, there: Record) -> Changes:
        """What would have to be corrected for the record to be as the row is."""
        if "scores" in there:
            there = {**there, "totals": {one["name"]: one["value"] for one in there["scores"]}}
        pairs = {name: (_at(there, name), _at(row.record, name)) for name in self._columns}
        return {name: pair for name, pair in pairs.items() if not _same(name, *pair)}

    def _cure(self, address: str, etag: str | None, changes: Changes) -> str:
        differences = ", ".join(
            f"{name} is {_shown(there)}, here {_shown(here)}" for name, (there, here) in changes.items()
        )
        sent = [f"{name}={_cell(name, here)}" for name, (_, here) in changes.items() if name not in _ELSEWHERE]
        correction = shlex.join(["registry-site", "amend", address, etag or "", "REASON", *sent])
        return f"{address}: {differences}" + (f"\n  to correct it: {correction}" if sent else "")


def _distance(changes: Changes) -> tuple[int, int]:
    """By term and onset first, as the registry looks for events that were reported twice (`possible_duplicate`)."""
    return len(changes.keys() & {"term", "onset"}), len(changes)


def _address(event: Record) -> str:
    return f"/v1/{_EVENTS}/{event['id']}"


def _at(record: Record, name: str) -> Any:
    """The value of a column."""
    value: Any = record
    for one in name.split("."):
        value = value.get(one) if isinstance(value, Mapping) else None
    return value


def _same(name: str, there: Any, here: Any) -> bool:
    """An empty cell is what the registry takes an absent field for; of an object, what is here is compared."""
    if here is None:
        return there in (None, []) or (there is False and name.startswith("criteria."))
    if isinstance(here, Mapping):
        return isinstance(there, Mapping) and all(_same(name, there.get(one), here[one]) for one in here)
    if isinstance(here, list):
        return isinstance(there, list) and len(here) == len(there) and all(map(_same, [name] * len(here), there, here))
    return bool(there == (here.strip() if isinstance(here, str) else here))


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _cell(name: str, value: Any) -> str:
    """As the file has it; an emptied criterion is one that is not met."""
    if value is None:
        return "false" if name.startswith("criteria.") else ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
