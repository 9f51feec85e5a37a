"""What a registry should hold and say, as simply as it can be told: the model of `bench.state_machine`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SEES: Mapping[str, frozenset[str]] = {
    "staff_a": frozenset("A"),
    "staff_b": frozenset("B"),
    "monitor_a": frozenset("A"),
    "monitor": frozenset("AB"),
}
"""Of which sites somebody reads the clinical records. Analyst, custodian and admin read none."""

STEPS: Mapping[tuple[str, str], str] = {
    ("open", "answer"): "answered",
    ("open", "cancel"): "cancelled",
    ("answered", "close"): "closed",
    ("answered", "reopen"): "open",
    ("answered", "cancel"): "cancelled",
    ("closed", "reopen"): "open",
}
"""How a data query goes on. Everything else is refused."""


@dataclass
class Record:
    """One thing that was acknowledged."""

    noun: str
    id: str
    site: str
    pid: str
    path: str
    etag: str | None
    fields: dict[str, Any]
    """What a reader must find in it."""

    entries: int = 1
    """How many entries of its site's chain are about it."""


@dataclass(frozen=True)
class Act:
    """A POST that was acknowledged, and what it was told."""

    who: str
    path: str
    body: Mapping[str, Any]
    key: str
    status: int
    location: str | None
    answer: Any


@dataclass
class Model:
    """Everything that was acknowledged."""

    records: list[Record] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    collection_ended: dict[str, str] = field(default_factory=dict)
    """pid -> the first day from which nothing is collected any more."""

    consents: dict[str, set[str]] = field(default_factory=dict)

    def of(self, *nouns: str) -> list[Record]:
        return [record for record in self.records if record.noun in nouns]

    def seen_by(self, who: str, noun: str) -> set[str]:
        return {record.id for record in self.of(noun) if record.site in SEES[who]}

    def closed(self, site: str, pid: str | None) -> bool:
        """Whether a freeze holds the site, or this person."""
        return any(
            lock.site == site and lock.fields["in_force"] and lock.fields["participant"] in (None, pid)
            for lock in self.of("locks")
        )

    def collects(self, pid: str, on: str) -> bool:
        return on < self.collection_ended.get(pid, "9999")

    def visit_there(self, pid: str, code: str, occurrence: int) -> bool:
        return any(
            (one.pid, one.fields["visit_code"], one.fields["occurrence"]) == (pid, code, occurrence)
            for one in self.of("visits")
        )

    def outcome_there(self, visit: str) -> bool:
        return any(one.fields["visit"] == visit for one in self.of("outcomes"))
