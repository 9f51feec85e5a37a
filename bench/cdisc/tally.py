"""Counts of the requests and their answers, from several site apps at once."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from threading import Lock
from typing import Any

KINDS = ("participant", "visit", "adverse event", "status")


@dataclass
class Count:
    """The records of one kind. `posted` counts records, not attempts: each ends in exactly one of the others."""

    posted: int = 0
    created: int = 0
    replayed: int = 0
    already_there: int = 0
    with_findings: int = 0
    """Of those created or replayed: the number that the registry accepted with a finding."""

    explained: int = 0
    """Of those created: visits refused as outside their window, then stored with a reason."""

    errors: int = 0
    not_sent: int = 0
    """Records of a participant who could not be enrolled."""

    refused: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)

    @property
    def accounted(self) -> int:
        ends = (self.created, self.replayed, self.already_there, self.errors, self.not_sent, self.refused.total())
        return sum(ends)


class Tally:
    """All counts of one replay. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.counts: Mapping[str, Count] = {kind: Count() for kind in KINDS}
        self.outcomes = 0
        self.retries = 0
        self.faults: Counter[str] = Counter()
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._lock = Lock()

    def answered(self, path: str, seconds: float) -> None:
        with self._lock:
            self._seconds[_kind(path)].append(seconds)

    def stored(self, kind: str, answer: Mapping[str, Any], replayed: bool, explained: bool = False) -> None:
        with self._lock:
            count = self.counts[kind]
            count.posted += 1
            count.replayed += replayed
            count.created += not replayed
            count.explained += explained
            found = [finding["code"] for finding in answer["findings"]] if kind != "status" else []
            count.with_findings += bool(found)
            count.findings.update(found)
            self.outcomes += len(answer.get("outcomes", []))

    def already_there(self, kind: str, records: int = 1) -> None:
        with self._lock:
            self.counts[kind].posted += records
            self.counts[kind].already_there += records

    def refused(self, kind: str, code: str) -> None:
        with self._lock:
            self.counts[kind].posted += 1
            self.counts[kind].refused[code] += 1

    def failed(self, kind: str, fault: str) -> None:
        with self._lock:
            self.counts[kind].posted += 1
            self.counts[kind].errors += 1
            self.faults[fault] += 1

    def not_sent(self, kind: str, records: int) -> None:
        with self._lock:
            self.counts[kind].posted += records
            self.counts[kind].not_sent += records

    def retried(self, retries: int) -> None:
        with self._lock:
            self.retries += retries

    @property
    def posted(self) -> int:
        return sum(count.posted for count in self.counts.values())

    @property
    def requests(self) -> int:
        return sum(len(seconds) for seconds in self._seconds.values())

    def milliseconds(self, kind: str) -> tuple[float, float] | None:
        """Median and 99th percentile over single requests of this kind."""
        seconds: Sequence[float] = self._seconds.get(kind, [])
        if len(seconds) < 2:
            return None
        cuts = quantiles(seconds, n=100, method="inclusive")
        return 1000 * cuts[49], 1000 * cuts[98]


def _kind(path: str) -> str:
    """The kind of record that a request is about."""
    if path.endswith("/status"):
        return "status"
    return {"/v1/participants": "participant", "/v1/visits": "visit", "/v1/adverse-events": "adverse event"}.get(
        path, "other"
    )
