"""A simple model of what a registry stores and answers, for `bench.state_machine`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.world import madrs

SEES: Mapping[str, frozenset[str]] = {
    "staff_a": frozenset("A"),
    "staff_b": frozenset("B"),
    "monitor_a": frozenset("A"),
    "monitor": frozenset("AB"),
}
"""Reader -> the sites whose clinical records they see. Analyst, custodian and admin see none."""

STEPS: Mapping[tuple[str, str], str] = {
    ("open", "answer"): "answered",
    ("open", "cancel"): "cancelled",
    ("answered", "close"): "closed",
    ("answered", "reopen"): "open",
    ("answered", "cancel"): "cancelled",
    ("closed", "reopen"): "open",
}
"""The steps of a data query. All others are refused."""


@dataclass
class Record:
    """One record that was acknowledged."""

    noun: str
    id: str
    site: str
    pid: str
    path: str
    etag: str | None
    fields: dict[str, Any]
    """The values that a reader must find in it."""

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

    consented: dict[str, str] = field(default_factory=dict)
    """pid -> the day of the newest consent."""

    taken_back: dict[str, str] = field(default_factory=dict)
    """pid -> the last day on which something was taken back."""

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

    def take_back(self, pid: str, scope: str, on: str) -> None:
        self.taken_back[pid] = max(on, self.taken_back.get(pid, on))
        if scope == "collection":
            self.collection_ended[pid] = min(on, self.collection_ended.get(pid, on))

    def consents_anew(self, pid: str, on: str) -> bool:
        """Whether a consent of this day says something new."""
        return self.consented[pid] <= self.taken_back.get(pid, "") <= on and self.consented[pid] < on

    def visit_there(self, pid: str, code: str, occurrence: int) -> bool:
        return any(
            (one.pid, one.fields["visit_code"], one.fields["occurrence"]) == (pid, code, occurrence)
            for one in self.of("visits")
        )

    def outcome_there(self, visit: str) -> bool:
        return any(one.fields["visit"] == visit for one in self.of("outcomes"))


def outcome_of(visit: Record, id_: str, etag: str | None, items: Mapping[str, Any]) -> Record:
    """An outcome of this visit."""
    return Record(
        "outcomes", id_, visit.site, visit.pid, f"/v1/outcomes/{id_}", etag, {"visit": visit.id, "items": dict(items)}
    )


def correction(record: Record) -> dict[str, Any]:
    """A correction that differs from what is there."""
    match record.noun:
        case "participants":
            return {"age_at_consent": record.fields["age_at_consent"] % 80 + 20}
        case "visits":
            return {"ended_on": None if record.fields.get("ended_on") else record.fields["occurred_on"]}
        case "outcomes":
            return {"items": {"MADRS_01": (record.fields["items"]["MADRS_01"] + 1) % 7}}
        case _:
            return {"severity": "moderate" if record.fields["severity"] == "mild" else "mild"}


def corrected(record: Record, change: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields that it has then."""
    return {"items": {**record.fields["items"], **change["items"]}} if record.noun == "outcomes" else change


def another(body: Mapping[str, Any]) -> dict[str, Any]:
    """What makes this a valid body of something else."""
    if "age_at_consent" in body:
        return {"age_at_consent": body["age_at_consent"] % 80 + 20}
    if "severity" in body:
        return {"severity": "severe"}
    if "items" in body:
        return madrs(1 if body["items"]["MADRS_01"] else 2)
    return {"text": "Something else"} if "text" in body else {"occurrence": body["occurrence"] + 3}
