"""The app of one site: enrols its participants and sends what happened to them, one after the other."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.cdisc.bodies import Body
from bench.cdisc.network import Network
from bench.cdisc.source import Subject
from bench.cdisc.tally import Tally
from registry_client import Answer, Refused, Registry, Unreachable

UNEXPLAINED = "not stated in the source"
OUTSIDE_WINDOW, VISIT_THERE, PERSON_THERE = "visit_outside_window", "visit_already_recorded", "label_already_enrolled"


class SiteApp:
    """Posts subjects, and counts the results in the tally. After a refused record the next one is sent."""

    def __init__(self, registry: Registry, network: Network, tally: Tally) -> None:
        self._registry, self._network, self._tally = registry, network, tally

    def send(self, subjects: Iterable[Subject]) -> None:
        for subject in subjects:
            self._send(subject)
        self._tally.retried(self._network.lost)
        self._registry.close()

    def _send(self, subject: Subject) -> None:
        person, known = self._enrol(subject.participant)
        if person is None:
            left = {"visit": subject.visits, "adverse event": subject.events, "status": subject.statuses}
            for kind, bodies in left.items():
                self._tally.not_sent(kind, len(bodies))
            return
        pid = person["pid"]
        for visit in self._unknown_visits(pid, subject.visits) if known else subject.visits:
            self._record("visit", "/v1/visits", {"participant": pid, **visit})
        for event in self._unknown_events(pid, subject.events) if known else subject.events:
            self._record("adverse event", "/v1/adverse-events", {"participant": pid, **event})
        for status in self._steps_left(person["status"], subject.statuses):
            self._record("status", f"/v1/participants/{pid}/status", status)

    def _enrol(self, body: Body) -> tuple[Mapping[str, Any] | None, bool]:
        """The participant, and whether the registry had them before; None if the enrolment failed."""
        try:
            answer = self._registry.post("/v1/participants", body)
        except Unreachable as silence:
            self._tally.failed("participant", str(silence))
            return None, False
        except Refused as refused:
            if refused.code != PERSON_THERE:
                self._tally.refused("participant", refused.code)
                return None, False
            self._tally.already_there("participant")
            label = {name: body[name] for name in ("study", "site", "site_local_id")}
            return self._registry.post("/v1/participants/lookup", label).body, True
        self._tally.stored("participant", answer.body, answer.replayed)
        return answer.body, False

    def _record(self, kind: str, path: str, body: Body) -> None:
        """Send one record, and count the result."""
        try:
            answer, explained = self._explained(path, body)
        except Unreachable as silence:
            self._tally.failed(kind, str(silence))
        except Refused as refused:
            if refused.code == VISIT_THERE:
                self._tally.already_there(kind)
            else:
                self._tally.refused(kind, refused.code)
        else:
            self._tally.stored(kind, answer.body, answer.replayed, explained)

    def _explained(self, path: str, body: Body) -> tuple[Answer, bool]:
        """The answer to a visit outside its window is the reason, as a person would type it. Raises Refused."""
        try:
            return self._registry.post(path, body), False
        except Refused as refused:
            if refused.code != OUTSIDE_WINDOW:
                raise
        return self._registry.post(path, {**body, "deviation_reason": UNEXPLAINED}), True

    def _unknown_visits(self, pid: str, visits: Sequence[Body]) -> list[Body]:
        """The visits that the registry does not have yet. It asks for them, since sending one again after the end of
        the study would be refused."""
        held = {_occurrence(visit) for visit in self._registry.pages("/v1/visits", participant=pid)}
        missing = [visit for visit in visits if _occurrence(visit) not in held]
        self._tally.already_there("visit", len(visits) - len(missing))
        return missing

    def _unknown_events(self, pid: str, events: Sequence[Body]) -> list[Body]:
        """The events that the registry does not have yet. They have no number of the site, so their contents are
        compared."""
        held = Counter(_content(event) for event in self._registry.pages("/v1/adverse-events", participant=pid))
        missing = []
        for event in events:
            content = _content(event)
            if held[content]:
                held[content] -= 1
            else:
                missing.append(event)
        self._tally.already_there("adverse event", len(events) - len(missing))
        return missing

    def _steps_left(self, present: str, steps: Sequence[Body]) -> Sequence[Body]:
        """The statuses after the present one."""
        reached = [place for place, step in enumerate(steps, 1) if step["status"] == present]
        done = reached[-1] if reached else 0
        self._tally.already_there("status", done)
        return steps[done:]


def _occurrence(visit: Mapping[str, Any]) -> tuple[str, int]:
    return visit["visit_code"], visit["occurrence"]


_COMPARED = ("term", "onset", "end", "severity", "serious_as_reported", "relatedness_drug", "outcome")


def _content(event: Mapping[str, Any]) -> str:
    met = sorted(name for name, given in event["criteria"].items() if given)
    codings = sorted((coding["level"], coding["term"]) for coding in event["codings"])
    return json.dumps([[event.get(name) for name in _COMPARED], met, codings])
