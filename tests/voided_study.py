"""One study made twice, once with records that are then voided, and everything that is read of it."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlmodel import Session, col, select, update

from app.database import within
from app.models.base import now
from app.models.participant import Participant
from app.models.study import ProtocolVersion
from app.models.visit import Visit
from app.pid import display, normalise
from app.services.assessments import visit_findings
from app.services.quality.rules_over_time import refresh_site
from app.services.safety import adverse_events
from tests.cohorts import alike, fill
from tests.course_cases import TREATMENT
from tests.dosing_cases import CALM, SESSIONS, at, dose, prepared, start
from tests.monitor_cases import nullification
from tests.test_verifications import with_plan
from tests.voided_cases import WHY, void, voided
from tests.world import Caller, World, madrs, protocol_definition, staff

THERAPY = {"minutes": 90, "mode": "in_person", "staff": ["T07"]}
CODED = [{"system": "own", "term": term, "level": level} for term, level in (("Cephalalgia", "pt"), ("Nerves", "soc"))]
SERIOUS = {"criteria": {"hospitalisation": True}, "aware_at": "2025-03-05T09:00:00Z"}
OF_PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "fourth": {"consent": {"version": "1", "given_on": "2025-01-02", "scopes": ["main"]}},
    "fifth": {"enrolled_on": None, "eligibility": {"met": False, "unmet": ["EXCL02"]}},
}
"""The fourth shares nothing, and the screening of the fifth failed."""
EVENTS, VISITS, OUTCOMES = "/v1/adverse-events", "/v1/visits", "/v1/outcomes"


class Twin:
    """A study of five people and a cohort; `errs`: with what its sites entered in error, and voided."""

    def __init__(self, world: World, *, errs: bool) -> None:
        self.world, self.errs = world, errs
        _with_two_forms(world, "all")
        self.cohort = fill(world, 26, alike, seed=35)
        self._sample(self.cohort)
        named = [("first", "A"), ("second", "B"), ("third", "A"), ("fourth", "A"), ("fifth", "B")]
        self.people = {
            name: world.enrolled(site, protocol_version="all", **OF_PEOPLE.get(name, {})) for name, site in named
        }
        first, second, third, fourth, fifth = self.people.values()
        self._people_in_error(fifth)
        self._consent_in_error(first, "2025-01-25", "main")
        self._consent_in_error(fourth, "2025-02-01", "data_sharing", "main")
        for one in (first, *self.cohort[:4]):
            self._in_error(one, "BL", "2025-02-07")
        visit = prepared(world.staff_a, first)
        measured = {"participant": first, "visit": self._visits(first)[0], "collected_on": "2025-02-10"}
        self._taken_out(OUTCOMES, {**measured, **madrs(3)})
        made = self._made(OUTCOMES, {**measured, **madrs(1)})
        self._session_in_error(visit["id"], "2025-03-03", given_mg=None, given_at=None)
        if self.errs:
            error = self._made(VISITS, world.visit(first, "DOS2", "2025-03-31"))
            self._session_in_error(error.rpartition("/")[2], "2025-03-31")
            voided(world.staff_a, error)
        session = world.staff_a.post(SESSIONS, start(visit["id"])).json()["id"]
        assert world.staff_a.post(f"{SESSIONS}/{session}/doses", dose()).status_code == 201
        self._reading_in_error(f"{SESSIONS}/{session}")
        treatments = f"/v1/participants/{first}/treatments"
        self._made(treatments, TREATMENT)
        if self.errs:
            voided(world.staff_a, self._made(treatments, {**TREATMENT, "atc": "N06AX16"}))
        event = world.event(first, onset="2025-03-04", codings=CODED)
        kept = self._made(EVENTS, event)
        for _ in range(2):
            self._taken_out(EVENTS, event)
        serious = self._made(EVENTS, world.event(first, term="Syncope", onset="2025-03-04", **SERIOUS))
        late = {"kind": "initial", "late_reason": "Told at the next visit"}
        assert world.staff_a.post(f"{serious}/reports", late).status_code == 201
        for one in (third, *self.cohort[:3]):
            self._taken_out(EVENTS, world.event(one, onset="2025-03-04", severity="severe", codings=CODED, **SERIOUS))
            self._in_error(one, "UNS", "2025-04-02")
        self._taken_back(first)
        self._in_error(third, "DOS1", "2025-03-03")
        self._in_error(third, "PREP1", "2025-02-06", therapy=THERAPY)
        self._made(VISITS, world.visit(second, outcomes=[madrs(2)]), "B")
        self._made(VISITS, world.visit(second, "UNS", "2025-03-20"), "B")
        taken = {"scope": "collection", "effective_on": "2025-03-10", "reason": "Told at the visit"}
        assert world.staff_b.post(f"/v1/participants/{second}/withdrawals", taken).status_code == 201
        self._consent_in_error(second, "2025-03-15", "data_sharing", "main")
        self._withdrawal_in_error(fourth)
        self.records = {"visit": f"{VISITS}/{visit['id']}", "outcome": made, "event": kept, "serious": serious}
        self.records["session"] = f"{SESSIONS}/{session}"
        self._goes_on(visit["id"])
        for kind, path in (("visit", VISITS), ("outcome", OUTCOMES), ("adverse_event", EVENTS)):
            subject = self.records["event" if kind == "adverse_event" else kind].removeprefix(f"{path}/")
            read = {"subject_type": kind, "subject": subject, "version": 1, "result": "verified"}
            assert world.monitor.post("/v1/verifications", read).status_code == 201

    def _people_in_error(self, screened: str) -> None:
        for site in ("A", "B"):
            self._enrolled_in_error(site)
        self._screened_in_error(screened)

    def _enrolled_in_error(self, site: str) -> None:
        """A second pid of somebody: with nothing more, and with one record of each kind that is voided before."""
        if not self.errs:
            return
        world, by = self.world, staff(self.world, site)
        voided(by, f"/v1/participants/{world.enrolled(site, protocol_version='all')}")
        pid = world.enrolled(site, protocol_version="all")
        person = f"/v1/participants/{pid}"
        self._in_error(pid, "BL", "2025-02-07")
        self._taken_out(EVENTS, world.event(pid, onset="2025-03-04", severity="severe", codings=CODED, **SERIOUS))
        voided(by, self._made(f"{person}/treatments", TREATMENT, site))
        self._consent_in_error(pid, "2025-02-01", "data_sharing", "main")
        self._withdrawal_in_error(pid)
        voided(by, person)

    def _screened_in_error(self, pid: str) -> None:
        """In both studies the participant's version moves on twice."""
        staff, person = self.world.staff_b, f"/v1/participants/{pid}"
        if self.errs:
            again = {"screened_on": "2025-06-01", "reason": "Asked to be screened again", "answers": {}}
            assert staff.post(f"{person}/screenings", again).status_code == 201
            self._taken_out(VISITS, self.world.visit(pid, "SCR", "2025-06-01"))
            answer = void(staff, f"{person}/screenings/2", staff.get(person).headers["ETag"])
            assert answer.status_code == 201, answer.text
            return
        for age in (42, 41):
            body = {"age_at_consent": age, "reason": "As the file has it"}
            assert staff.patch(person, body, staff.get(person).headers["ETag"]).status_code == 200

    def _goes_on(self, visit: str) -> None:
        """What is judged again, and asked, when the course goes on."""
        staff, monitor, (first, second, third, *_) = self.world.staff_a, self.world.monitor, self.people.values()
        with_plan(self.world, "again", share=1.0)
        why = {"reason": "As it went on"}
        asked = {"participant": first, "subject_type": "missing_visit", "visit_code": "INT1B", "occurrence": 1}
        for caller, path, body in (
            (staff, f"/v1/participants/{first}/status", {"status": "active", "effective_on": "2025-03-03"}),
            (staff, f"/v1/participants/{third}/status", {"status": "active", "effective_on": "2025-02-01"}),
            (staff, f"/v1/participants/{third}/status", {"status": "died", "effective_on": "2025-02-20"}),
            (self.world.staff_b, f"/v1/participants/{second}/protocol-version", {"version": "again"}),
            (monitor, "/v1/locks", {"kind": "freeze", "study": self.world.study, "visit": visit}),
        ):
            answer = caller.post(path, {**body, **why})
            assert answer.is_success, answer.text
        answer = monitor.post("/v1/data-queries", {**asked, "text": "Did it take place?"})
        assert answer.status_code == 201, answer.text

    def _sample(self, pids: Sequence[str]) -> None:
        """By the plan that looks at everybody: whom another one samples hangs on their pid."""
        version = select(ProtocolVersion.id).where(
            col(ProtocolVersion.study_id) == self.world.study_id, col(ProtocolVersion.version) == "all"
        )
        with self.world.registry.database.write() as session:
            going_by = {"protocol_version_id": session.exec(version).one()}
            for table in (Participant, Visit):
                session.execute(update(table).where(col(table.pid).in_(pids)).values(going_by))

    def _made(self, path: str, body: Mapping[str, Any], site: str = "A") -> str:
        answer = staff(self.world, site).post(path, body)
        assert answer.status_code == 201, answer.text
        return f"{path}/{answer.json()['id']}"

    def _visits(self, pid: str) -> list[str]:
        items = self.world.staff_a.get(VISITS, participant=pid).json()["items"]
        return [one["id"] for one in sorted(items, key=lambda one: str(one["occurred_on"]))]

    def _taken_out(self, path: str, body: Mapping[str, Any]) -> None:
        if self.errs:
            of_site = self.world.monitor.get(f"/v1/participants/{body['participant']}").json()["site"]
            voided(staff(self.world, of_site), self._made(path, body, of_site))

    def _consent_in_error(self, pid: str, day: str, *scopes: str) -> None:
        """A form of another participant."""
        if self.errs:
            person = f"/v1/participants/{pid}"
            by = staff(self.world, self.world.monitor.get(person).json()["site"])
            given = {"version": "2", "given_on": day, "scopes": list(scopes), "reason": "Consented again"}
            assert by.post(f"{person}/consents", given).status_code == 201
            answer = void(by, f"{person}/consents/2/1", by.get(person).headers["ETag"])
            assert answer.status_code == 201, answer.text

    def _withdrawal_in_error(self, pid: str) -> None:
        """A letter of another participant."""
        if self.errs:
            person = f"/v1/participants/{pid}"
            by = staff(self.world, self.world.monitor.get(person).json()["site"])
            taken = {"scope": "collection", "effective_on": "2025-03-01", "reason": "Told at the visit"}
            assert by.post(f"{person}/withdrawals", taken).status_code == 201
            answer = by.post(f"{person}/withdrawals/1/voiding", WHY)
            assert answer.status_code == 201, answer.text

    def _session_in_error(self, visit: str, day: str, **changes: Any) -> None:
        """With a dose of that day and vital signs."""
        if not self.errs:
            return
        staff, why = self.world.staff_a, {"deviation_reason": "As the other participant's chart has it"}
        session = self._made(SESSIONS, start(visit, day))
        given = dose(**{"given_at": at("09:15", day), **changes, **why})
        measured = {"timepoint": "M60", "taken_at": at("10:15", day), "values": CALM}
        for below, body in (("doses", given), ("vitals", measured)):
            answer = staff.post(f"{session}/{below}", body)
            assert answer.status_code == 201, answer.text
        voided(staff, session)

    def _reading_in_error(self, session: str) -> None:
        """In both studies the session's version moves on twice."""
        staff = self.world.staff_a
        if self.errs:
            measured = {"timepoint": "M60", "taken_at": at("10:15"), "values": CALM}
            reading = staff.post(f"{session}/vitals", measured).json()["vitals"][-1]["id"]
            answer = void(staff, f"{session}/vitals/{reading}", staff.get(session).headers["ETag"])
            assert answer.status_code == 201, answer.text
            return
        for names in (["T01", "T03"], ["T01", "T02"]):
            body = {"staff": names, "reason": "As the list has it"}
            assert staff.patch(session, body, staff.get(session).headers["ETag"]).status_code == 200

    def _taken_back(self, pid: str) -> None:
        """What sponsor and authority were told of, and a question about what they were not."""
        if not self.errs:
            return
        staff, monitor = self.world.staff_a, self.world.monitor
        event = self._made(EVENTS, self.world.event(pid, onset="2025-03-04", term="Fall", codings=CODED, **SERIOUS))
        told, late = {"version": 1}, {"late_reason": "Told at the next visit"}
        informed = {**told, "kind": "authority_informed"}
        asked = self._made(EVENTS, self.world.event(pid, onset="2025-03-04", term="Cough"))
        question = {"kind": "information_request", "due_at": "2030-01-01T12:00:00Z", "comment": "Since when?"}
        for caller, path, body in (
            (staff, f"{event}/reports", {"kind": "initial", **late}),
            (monitor, f"{event}/reviews", {**informed, "informed_at": "2025-03-06T09:00:00Z"}),
            (staff, f"{event}/reports", nullification(aware_at="2025-04-01T09:00:00Z", **late)),
            (monitor, f"{event}/reviews", {**informed, "informed_at": "2025-04-02T09:00:00Z"}),
            (monitor, f"{asked}/reviews", {**told, **question}),
        ):
            answer = caller.post(path, body)
            assert answer.status_code == 201, answer.text
        for one in (event, asked):
            voided(staff, one)

    def _in_error(self, pid: str, code: str, on: str, **more: Any) -> None:
        """A visit with an outcome; the cohort has had its own visits."""
        number = 9 if pid in self.cohort else 1
        body = self.world.visit(pid, "UNS" if number > 1 else code, on, outcomes=[madrs(1)], **more)
        self._taken_out(VISITS, {**body, "occurrence": number})

    def is_passed_over(self) -> None:
        """By the pass that looks at every site: at its own alone."""
        for site_id in self.world.site_ids.values():
            for look in (visit_findings.refresh, adverse_events.refresh, _asked_by_time):
                with self.world.registry.served.write() as session, within(session, [site_id]):
                    look(session, site_id)

    def reads(self) -> Iterator[tuple[str, Caller, str, Mapping[str, str]]]:
        """A name that both studies share, who reads, the path, and what is asked."""
        monitor, study = self.world.monitor, {"study": self.world.study}
        for pid, name in [*((pid, name) for name, pid in self.people.items()), (self.cohort[0], "one of the cohort")]:
            for below in ("", *OF_PERSON):
                yield f"{name}{below}", monitor, f"/v1/participants/{display(normalise(pid))}{below}", {}
            yield f"{name} to sign", monitor, "/v1/signatures/content", {"participant": pid}
            for path in (VISITS, OUTCOMES, EVENTS):
                yield f"{name} {path}", monitor, path, {"participant": pid}
        for name, path in self.records.items():
            yield name, monitor, path, {}
        for below in ("/history", "/reports", "/reports/1", "/reviews", "/clocks"):
            yield below, monitor, f"{self.records['serious']}{below}", {}
        of_visit = {"participant": self.people["first"], "visit": self.records["visit"].rpartition("/")[2]}
        yield "visit to sign", monitor, "/v1/signatures/content", of_visit
        for path, asked in LISTS:
            yield f"{path} {asked}", monitor, path, {**study, **asked}
        for path in (VISITS, OUTCOMES, EVENTS):
            yield f"{path} of a site", self.world.staff_a, path, _WHOLE
        for asked in ({}, {"from": "2025-01-01", "to": "2026-01-01"}):
            yield f"due {asked}", monitor, f"/v1/studies/{self.world.study}/due", asked

    def told(self) -> dict[str, Any]:
        """Everything that is read, without what differs from study to study."""
        return {name: self._same(_read(caller, path, asked)) for name, caller, path, asked in self.reads()}

    def extract(self, profile: str) -> str:
        """The path of an extract, for somebody who holds none."""
        wish = {"study": self.world.study, "purpose": "A question", "profile": profile}
        wish |= {"agreement": "DUA-2026-014"} if profile == "pseudonymised" else {}
        path: str = self.world.analyst.post("/v1/extracts", wish).headers["Location"]
        decision = {"decision": "approve", "reason": "agreed use"}
        answer = self.world.custodian.post(f"{path}/approval", decision)
        assert answer.status_code == 201, answer.text
        return path

    def released(self, path: str) -> dict[str, Any]:
        """Its tables but for the subject ids, and what is told of its risks."""
        read = self.world.analyst.get(path).json()
        files = [one["name"] for one in read["files"] if one["name"].endswith(".csv")]
        tables = {name: self.world.analyst.get(f"{path}/files/{name}").text for name in files}
        risks = [one["name"] for one in read["files"] if "risk" in one["name"]]
        told = [self.world.analyst.get(f"{path}/files/{name}").text for name in risks]
        rows = {
            name: [{**row, "subject": "", "site": ""} for row in csv.DictReader(io.StringIO(text))]
            for name, text in tables.items()
        }
        return {"rows": self._same(rows), "risks": told}

    def _same(self, value: Any) -> Any:
        text = json.dumps(value)
        cohort = ((f"c{number}", pid) for number, pid in enumerate(self.cohort))
        for name, pid in (*self.people.items(), *cohort):
            symbols = normalise(pid)
            text = text.replace(display(symbols), name).replace(symbols, name)
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "#", text.replace(self.world.study, "STUDY"))
        return _in_order(json.loads(re.sub(r"20\d\d-\d\d-\d\dT[\d:.]+Z", "@", text)))


def _with_two_forms(world: World, version: str) -> None:
    """A protocol version that looks at everybody, with a second version of the consent."""
    definition = protocol_definition()
    definition["verification"].update(share=1.0)
    second = {**definition["consents"][0], "version": "2", "valid_from": "2025-05-01"}
    body = {**definition, "version": version, "consents": [*definition["consents"], second]}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", body)
    assert answer.status_code == 201, answer.text


def _asked_by_time(session: Session, site_id: int) -> int:
    return refresh_site(session, site_id, now().date())


def _read(caller: Caller, path: str, asked: Mapping[str, str]) -> Any:
    """All pages of it."""
    answer = caller.get(path, **asked)
    assert answer.status_code == 200, (path, asked, answer.text)
    if asked.get("format") == "csv":
        return list(csv.DictReader(io.StringIO(answer.text)))
    told: dict[str, Any] = answer.json()
    if told.get("next"):
        told["items"] += _read(caller, path, {**asked, "cursor": told.pop("next")})["items"]
    return {name: one for name, one in told.items() if name != "next"}


def _in_order(value: Any) -> Any:
    """Lists by what they hold: ids and pids, which decide between equals, are drawn."""
    if isinstance(value, list):
        return sorted(map(_in_order, value), key=lambda one: json.dumps(one, sort_keys=True))
    if isinstance(value, dict):
        moves_on = "pid" in value or value.get("subject_type") == "participant"
        own = _OF_ITS_OWN | ({"version"} if moves_on else set())
        kept = {name: _that_count(name, one) for name, one in value.items() if name not in own}
        return {name: _in_order(_parsed(name, one)) for name, one in kept.items()}
    return value


def _that_count(name: str, value: Any) -> Any:
    """Voided consents, withdrawals and screenings are listed with the others, and are marked; nothing else that was
    voided is."""
    marked = name in {"consents", "withdrawals"} or (name == "items" and all("answers" in one for one in value))
    return [one for one in value if not one.get("voided_at")] if marked else value


def _parsed(name: str, value: Any) -> Any:
    """The content to be signed is told as text."""
    return json.loads(value) if name == "content" and isinstance(value, str) else value


_OF_ITS_OWN = {"content_sha256", "voided", "voided_vitals"}
"""The first names the content in which ids stand; the others tell of what was voided. A participant's version moves on
when a consent, a withdrawal or an earlier treatment is."""

OF_PERSON = ("/schedule", "/consents", "/screenings", "/treatments", "/response")
_WHOLE = {"limit": "500"}
LISTS: tuple[tuple[str, Mapping[str, str]], ...] = (
    *((VISITS, {**asked, **_WHOLE}) for asked in ({}, {"visit_code": "UNS"}, {"status": "completed"})),
    *((OUTCOMES, {**asked, **_WHOLE}) for asked in ({}, {"instrument": "MADRS"}, {"visit_code": "BL"})),
    *((EVENTS, {"sort": sort, **_WHOLE}) for sort in ("reported", "due", "onset", "updated")),
    *((EVENTS, {name: "true"}) for name in ("serious", "overdue", "unreviewed", "possible_duplicate")),
    *((EVENTS, asked) for asked in ({"severity": "severe"}, {"soc": "Nerves"}, {"format": "csv"})),
    *((f"{EVENTS}/summary", {"by": by, "population": "all"}) for by in ("soc,pt,arm", "severity,site", "relatedness")),
    *((f"{EVENTS}/summary", asked) for asked in ({"emergent": "true"}, {"serious": "true"})),
    (f"{OUTCOMES}/summary", {"instrument": "MADRS"}),
    *((f"/v1/monitoring/{path}", {}) for path in ("summary", "queries", "sites", "verification")),
    *((f"/v1/{path}", _WHOLE) for path in ("monitoring/verification/pending", "verifications", "data-queries")),
    *((f"/v1/{path}", _WHOLE) for path in ("participants", "dosing-sessions", "safety-signals", "signatures")),
)
