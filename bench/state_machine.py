"""`python -m bench.state_machine --engine sqlite --examples 300`: long random courses of a registry against a model.

Hypothesis lets the staff of two sites, two monitors, an analyst and a custodian enrol, record, correct, raise and
answer data queries, freeze, withdraw, retry and read, in any order, with valid and invalid requests. After each step
the answer must be the one that `bench.state_model` expects; after each course everybody must find exactly the records
that they may see, and the chains must have exactly the changes that happened.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from httpx2 import Response
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from sqlalchemy import func
from sqlmodel import select

from app import audit
from app.models.audit import AuditEntry
from bench.in_process import registry_of
from bench.state_model import SEES, STEPS, Act, Model, Record, another, corrected, correction, outcome_of
from tests.world import Registry, World, madrs

ANY = st.integers(0, 10**6)
STAFF, MONITORS, OUTSIDERS = ("staff_a", "staff_b"), ("monitor", "monitor_a"), ("analyst", "custodian", "admin")
HOME = {"staff_a": "A", "staff_b": "B"}
NOUNS = ("participants", "visits", "outcomes", "adverse-events", "data-queries", "locks")
AMENDED = ("participants", "visits", "outcomes", "adverse-events")
DAYS, AFTER = ("2025-02-10", "2025-03-20", "2025-04-10"), "2025-06-01"


class Course(RuleBasedStateMachine):
    """One study, from its first participant on."""

    registry: ClassVar[Registry]
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world, self.model = World(self.registry), Model()

    def caller(self, who: str) -> Any:
        return getattr(self.world, who)

    def pick(self, number: int, *nouns: str) -> Record:
        there = self.model.of(*nouns)
        return there[number % len(there)]

    def refused(self, answer: Response, *codes: str) -> None:
        self.done["refused"] += 1
        assert answer.status_code < 500, answer.text
        assert answer.json()["code"] in codes, (answer.text, codes)

    def create(self, who: str, path: str, body: Mapping[str, Any], expected: set[str]) -> Any:
        """The answer, which is either a record or one of the refusals expected; None when it was refused."""
        key = str(uuid4())
        answer = self.caller(who).post(path, body, key=key)
        if expected:
            self.refused(answer, *expected)
            return None
        assert answer.status_code == 201, answer.text
        self.done["stored"] += 1
        told = answer.json()
        self.model.acts.append(Act(who, path, body, key, 201, answer.headers.get("Location"), told))
        return answer

    def keep(self, noun: str, answer: Response, site: str, pid: str, **fields: Any) -> Record:
        path = answer.headers["Location"]
        record = Record(noun, path.rpartition("/")[2], site, pid, path, answer.headers.get("ETag"), fields)
        self.model.records.append(record)
        return record

    @rule(who=st.sampled_from(STAFF), where=st.sampled_from("AAAB"), age=st.integers(18, 90))
    def enrol(self, who: str, where: str, age: int) -> None:
        site = HOME[who] if where == "A" else ("B" if who == "staff_a" else "A")
        expected = {"not_found"} if site != HOME[who] else set()
        if not expected and self.model.closed(site, None):
            expected = {"data_locked"}
        answer = self.create(who, "/v1/participants", self.world.enrolment(site, age_at_consent=age), expected)
        if answer is not None:
            pid = answer.json()["pid"]
            self.keep("participants", answer, site, pid, age_at_consent=age, status="enrolled")
            self.model.consented[pid] = "2025-01-02"

    @precondition(lambda self: self.model.of("participants"))
    @rule(
        who=st.sampled_from(STAFF),
        number=ANY,
        occurrence=st.integers(1, 3),
        on=st.sampled_from(DAYS),
        scored=st.booleans(),
    )
    def visit(self, who: str, number: int, occurrence: int, on: str, scored: bool) -> None:
        person = self.pick(number, "participants")
        body = self.world.visit(person.pid, "UNS", on, occurrence=occurrence, outcomes=[madrs(3)] if scored else [])
        answer = self.create(
            who, "/v1/visits", body, self.hindrances(who, person, on) or self.there(person, occurrence)
        )
        if answer is not None:
            facts = {"visit_code": "UNS", "occurrence": occurrence, "occurred_on": on}
            visit = self.keep("visits", answer, person.site, person.pid, **facts)
            for one in answer.json()["outcomes"]:
                self.model.records.append(outcome_of(visit, one["id"], None, one["items"]))

    def there(self, person: Record, occurrence: int) -> set[str]:
        return {"visit_already_recorded"} if self.model.visit_there(person.pid, "UNS", occurrence) else set()

    def hindrances(self, who: str, person: Record, on: str | None) -> set[str]:
        """The codes with which a record of this person may be refused."""
        if person.site != HOME[who]:
            return {"not_found"}
        frozen = {"data_locked"} if self.model.closed(person.site, person.pid) else set()
        return frozen | ({"collection_withdrawn"} if on and not self.model.collects(person.pid, on) else set())

    @precondition(lambda self: self.model.of("visits"))
    @rule(who=st.sampled_from(STAFF), number=ANY, value=st.integers(0, 6))
    def outcome(self, who: str, number: int, value: int) -> None:
        visit = self.pick(number, "visits")
        body = {"participant": visit.pid, "visit": visit.id, **madrs(value)}
        expected = self.hindrances(who, visit, visit.fields["occurred_on"])
        if not expected and self.model.outcome_there(visit.id):
            expected = {"outcome_already_recorded"}
        answer = self.create(who, "/v1/outcomes", body, expected)
        if answer is not None:
            made = answer.json()
            self.model.records.append(outcome_of(visit, made["id"], answer.headers["ETag"], made["items"]))

    @precondition(lambda self: self.model.of("participants"))
    @rule(who=st.sampled_from(STAFF), number=ANY, severity=st.sampled_from(["mild", "moderate"]))
    def event(self, who: str, number: int, severity: str) -> None:
        person = self.pick(number, "participants")
        body = self.world.event(person.pid, severity=severity)
        answer = self.create(who, "/v1/adverse-events", body, self.hindrances(who, person, None) - {"data_locked"})
        if answer is not None:
            self.keep("adverse-events", answer, person.site, person.pid, severity=severity, participant=person.id)

    @precondition(lambda self: self.model.of(*AMENDED))
    @rule(who=st.sampled_from(STAFF), number=ANY, seen=st.sampled_from(["fresh", "fresh", "stale", "none"]))
    def amend(self, who: str, number: int, seen: str) -> None:
        record = self.pick(number, *AMENDED)
        change = correction(record)
        tag = {"fresh": self.current(record), "stale": '"0123456789abcdef0123456789abcdef"', "none": None}[seen]
        answer = self.caller(who).patch(record.path, {"reason": "seen in the file", **change}, tag)
        hindrances = self.hindrances(who, record, None)  # no correction of these moves a day
        if seen == "none":
            self.refused(answer, "if_match_missing")
        elif hindrances == {"not_found"}:
            self.refused(answer, "not_found")
        elif seen == "stale":
            self.refused(answer, "version_stale", *hindrances)
        elif hindrances:
            self.refused(answer, *hindrances)
        else:
            assert answer.status_code == 200, answer.text
            self.done["stored"] += 1
            assert answer.headers["ETag"] != record.etag
            record.fields.update(corrected(record, change))
            record.etag, record.entries = answer.headers["ETag"], record.entries + 1

    def current(self, record: Record) -> str | None:
        if record.etag is None:  # made with its visit
            record.etag = self.caller(_owner(record)).get(record.path).headers["ETag"]
        return record.etag

    @precondition(lambda self: self.model.of("participants"))
    @rule(
        who=st.sampled_from(STAFF),
        number=ANY,
        on=st.sampled_from(DAYS),
        scope=st.sampled_from(["collection", "contact"]),
    )
    def withdraw(self, who: str, number: int, on: str, scope: str) -> None:
        person = self.pick(number, "participants")
        body = {"scope": scope, "effective_on": on, "reason": "asked for it"}
        expected = {"not_found"} if person.site != HOME[who] else set()
        if self.create(who, f"{person.path}/withdrawals", body, expected) is not None:
            self.model.take_back(person.pid, scope, on)

    @precondition(lambda self: self.model.of("participants"))
    @rule(who=st.sampled_from(STAFF), number=ANY, version=st.sampled_from(["1", "7"]))
    def consent(self, who: str, number: int, version: str) -> None:
        """Version 1 was given at enrolment, and can be given again after a withdrawal; there is no version 7."""
        person = self.pick(number, "participants")
        body = {"version": version, "given_on": AFTER, "scopes": ["main"], "reason": "signed again"}
        expected = self.hindrances(who, person, None)
        if version == "7" and person.site == HOME[who]:
            expected = {"consent_unknown", *expected}
        elif not self.model.consents_anew(person.pid, AFTER):
            expected = expected or {"consent_already_recorded"}
        if self.create(who, f"{person.path}/consents", body, expected) is not None:
            self.model.consented[person.pid] = AFTER

    @precondition(lambda self: self.model.acts)
    @rule(number=ANY)
    def retry(self, number: int) -> None:
        act = self.model.acts[number % len(self.model.acts)]
        again = self.caller(act.who).post(act.path, act.body, key=act.key)
        self.done["replayed"] += 1
        assert (again.status_code, again.json()) == (act.status, act.answer), again.text
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.headers.get("Location") == act.location

    @precondition(lambda self: self.model.acts)
    @rule(number=ANY)
    def same_key_other_body(self, number: int) -> None:
        act = self.model.acts[number % len(self.model.acts)]
        other = {**act.body, **({"reason": "another"} if "reason" in act.body else another(act.body))}
        self.refused(self.caller(act.who).post(act.path, other, key=act.key), "idempotency_key_reused")

    @precondition(lambda self: self.model.of("visits", "outcomes", "adverse-events"))
    @rule(who=st.sampled_from((*MONITORS, "staff_a")), number=ANY)
    def ask(self, who: str, number: int) -> None:
        subject = self.pick(number, "visits", "outcomes", "adverse-events")
        kind = {"visits": "visit", "outcomes": "outcome", "adverse-events": "adverse_event"}[subject.noun]
        body = {"participant": subject.pid, "subject_type": kind, "subject": subject.id, "text": "Please check"}
        expected = {"permission_missing"} if who in STAFF else {"not_found"} if subject.site not in SEES[who] else set()
        answer = self.create(who, "/v1/data-queries", body, expected)
        if answer is not None:
            self.keep("data-queries", answer, subject.site, subject.pid, state="open", subject=subject.id)

    @precondition(lambda self: self.model.of("data-queries"))
    @rule(
        who=st.sampled_from((*STAFF, *MONITORS)),
        number=ANY,
        action=st.sampled_from(["answer", "answer", "close", "reopen", "cancel"]),
    )
    def go_on(self, who: str, number: int, action: str) -> None:
        query = self.pick(number, "data-queries")
        to = STEPS.get((query.fields["state"], action))
        expected = set() if to else {"query_transition_impossible"}
        if query.site not in SEES[who]:
            expected = {"not_found"}
        if (action == "answer") != (who in STAFF):
            expected = {"permission_missing"}
        place, body = ("answers", {"text": "As in the file"})
        if action != "answer":
            place, body = "closure", {"decision": action, "reason": "as agreed"}
        if self.create(who, f"{query.path}/{place}", body, expected) is not None:
            query.fields["state"], query.etag, query.entries = to, None, query.entries + 1

    @precondition(lambda self: self.model.of("participants"))
    @rule(who=st.sampled_from((*MONITORS, "staff_a")), number=ANY, whole=st.integers(0, 5))
    def freeze(self, who: str, number: int, whole: int) -> None:
        person = self.pick(number, "participants")
        pid = None if whole == 0 else person.id
        body = {"kind": "freeze", "study": self.world.study, "site": person.site, "reason": "interim look"}
        same = any(
            (one.site, one.fields["participant"], one.fields["in_force"]) == (person.site, pid and person.pid, True)
            for one in self.model.of("locks")
        )
        expected = {"already_closed"} if same else set()
        expected = (
            {"permission_missing"} if who in STAFF else {"not_found"} if person.site not in SEES[who] else expected
        )
        answer = self.create(who, "/v1/locks", {**body, **({"participant": pid} if pid else {})}, expected)
        if answer is not None:
            self.keep("locks", answer, person.site, person.pid, participant=pid and person.pid, in_force=True)

    @precondition(lambda self: self.model.of("locks"))
    @rule(who=st.sampled_from((*MONITORS, "staff_a")), number=ANY)
    def lift(self, who: str, number: int) -> None:
        lock = self.pick(number, "locks")
        expected = set() if lock.fields["in_force"] else {"lock_lifted"}
        expected = {"permission_missing"} if who in STAFF else {"not_found"} if lock.site not in SEES[who] else expected
        if self.create(who, f"{lock.path}/lifting", {"reason": "a late page"}, expected) is not None:
            lock.fields["in_force"], lock.etag, lock.entries = False, None, lock.entries + 1

    @rule(who=st.sampled_from(("staff_a", "monitor", "custodian")))
    def extract_by_another(self, who: str) -> None:
        body = {"study": self.world.study, "purpose": "A look"}
        assert self.create(who, "/v1/extracts", body, {"permission_missing"}) is None

    @precondition(lambda self: self.model.records)
    @rule(who=st.sampled_from((*SEES, *OUTSIDERS)), number=ANY)
    def read(self, who: str, number: int) -> None:
        record = self.pick(number, *NOUNS)
        answer = self.caller(who).get(record.path)
        if who in OUTSIDERS:
            self.refused(answer, "permission_missing")
        elif record.site not in SEES[who]:
            self.refused(answer, "not_found")
        else:
            self.done["read"] += 1
            self.found(record, answer)

    def found(self, record: Record, answer: Response) -> None:
        assert answer.status_code == 200, answer.text
        told = answer.json()
        if record.noun == "locks":
            assert (told["lifted_at"] is None) == record.fields["in_force"]
            return
        for name, value in record.fields.items():
            assert told[name] == value, (record.noun, name, told[name], value)
        assert record.etag in (None, answer.headers.get("ETag"))

    @rule(who=st.sampled_from((*SEES, *OUTSIDERS)), noun=st.sampled_from(NOUNS), limit=st.integers(1, 4))
    def page_through(self, who: str, noun: str, limit: int) -> None:
        listed: list[str] = []
        query: dict[str, Any] = {"study": self.world.study, "limit": limit}
        while True:
            answer = self.caller(who).get(f"/v1/{noun}", **query)
            if who in OUTSIDERS:
                self.refused(answer, "permission_missing")
                return
            assert answer.status_code == 200, answer.text
            page = answer.json()
            listed += [one["pid"] if noun == "participants" else one["id"] for one in page["items"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        self.done["listed"] += 1
        assert len(listed) == len(set(listed))
        assert set(listed) == self.model.seen_by(who, noun)

    def teardown(self) -> None:
        """Everybody finds exactly the records that they may see, and the chains have exactly the changes that
        happened."""
        for record in self.model.records:
            self.found(record, self.caller(_owner(record)).get(record.path))
        with self.registry.database.read() as session:
            for record in self.model.records:
                about = _bare(record.pid if record.noun == "participants" else record.id)
                counted = select(func.count()).where(
                    AuditEntry.site_id == self.world.site_ids[record.site],
                    func.replace(AuditEntry.subject_id, "-", "") == about,
                    AuditEntry.subject_type == _KINDS[record.noun],
                )
                assert session.exec(counted).one() == record.entries, (record, "entries of the chain")
            ours = set(self.world.site_ids.values())
            assert not [one for one in audit.verify(session) if one.site_id in ours and one.fault]
        self.done["courses"] += 1


_KINDS = {
    "participants": "participant",
    "visits": "visit",
    "outcomes": "outcome",
    "adverse-events": "adverse_event",
    "data-queries": "data_query",
    "locks": "data_lock",
}


def _bare(text: str) -> str:
    return text.replace("-", "")


def _owner(record: Record) -> str:
    return "staff_a" if record.site == "A" else "staff_b"


def follow(registry: Registry, examples: int, steps: int, *, derandomize: bool) -> Counter[str]:
    """So many courses of at most so many steps; what was done in them. Raises AssertionError where they part."""

    class Followed(Course):
        pass

    Followed.registry, Followed.done = registry, Counter()
    run_state_machine_as_test(
        Followed,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),  # a course that parts is short enough to read, and long to shrink
        ),
    )
    return Followed.done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, registry_of(options.engine, Path(name)) as registry:
        done = follow(registry, options.examples, options.steps, derandomize=False)
    print(f"{options.engine}: {dict(done)}, divergences: 0, server errors: 0")


if __name__ == "__main__":
    main()
