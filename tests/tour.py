"""The examples of the published description, sent in the order of one study: each with what it needs before it."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

from httpx2 import Response

from app.pid import complete, display
from tests.course_cases import open_screening, screen_failed
from tests.dosing_cases import a_signal, after_dose, held, vitals
from tests.label_cases import PATH as LABELS
from tests.monitor_cases import a_serious_event
from tests.outbox_cases import a_dead_delivery
from tests.route_cases import PASSWORD, a_refused_act, a_visit, an_older_outcome, content_of, totp_code, with_password
from tests.world import Caller, World

FOLDER = Path(__file__).resolve().parent.parent / "app" / "web" / "examples"
FILES: dict[Path, dict[str, dict[str, Any]]] = {
    file: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))
}
EXAMPLES = {name: one for examples in FILES.values() for name, one in examples.items()}
STUDY, PERSON, SPARE = "mdma-mdd-demo", "7K3F-9TQ2-XMEE", display(complete("0000000001"))
VISIT, EVENT, DOSING_VISIT = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PID = re.compile(r"(?<![\w-])(?:[0-9A-Z]{4}-){2}[0-9A-Z]{4}(?![\w-])")
_STORED = re.compile(r'"20[0-9-]{8}T[0-9:]{8}\.[0-9]{6}Z"')
_ETAG = re.compile(r'(etag"): ?"\\"[^"\\]*\\""')
_TOKEN = re.compile(r'(access_token"): ?"[^"]+"')


class Tour:
    """The examples sent in their order, in a study of its own; what the registry draws is given fixed names."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names = {
            world.study: STUDY,
            '"A"': '"S01"',
            f"u{uuid4().hex}": "monitor-example",
            f"study-{uuid4().hex}": "mdma-mdd-extension",
            uuid4().hex: EXAMPLES["link_identity"]["request"]["subject"],
        }
        self.answers: dict[str, Any] = {}

    def send(self, name: str, caller: Caller, path: str, **real: str) -> Any:
        """`real` stands for what an example cannot know, by the field that it is in."""
        return self.heard(name, caller.post(path, self.asked(name, **real)))

    def correct(self, name: str, caller: Caller, path: str, below: str = "") -> Any:
        """The record at `path`, or what lies below it, as it is now."""
        return self.heard(name, caller.patch(path + below, self.asked(name), caller.get(path).headers["ETag"]))

    def void(self, name: str, caller: Caller, path: str, below: str = "") -> Any:
        """The record at `path`, or what lies below it, as it is now."""
        seen = {"If-Match": caller.get(path).headers["ETag"]}
        return self.heard(name, caller.post(f"{path}{below}/voiding", self.asked(name), **seen))

    def upload(self, name: str, caller: Caller, path: str) -> Any:
        line = json.dumps(self.asked(name)).encode()
        return self.heard(name, caller.raw("POST", path, line, **{"Content-Type": "application/x-ndjson"}))

    def heard(self, name: str, answer: Response) -> Any:
        assert answer.is_success, (name, answer.text)
        self.answers[name] = answer.json() if answer.content else None
        return self.answers[name]

    def asked(self, name: str, **real: str) -> Any:
        text = json.dumps(EXAMPLES[name]["request"])
        for drawn, shown in self.names.items():
            text = text.replace(shown, drawn)
        body = json.loads(text)
        assert not real or real.keys() <= body.keys(), name
        return {**body, **real} if real else body

    def shown(self, name: str) -> Any:
        """An answer with fixed names, ids and instants."""
        text = json.dumps(self.answers[name])
        for drawn, fixed in self.names.items():
            text = text.replace(drawn, fixed)
        kept = {*_ID.findall(json.dumps(EXAMPLES[name]["request"])), VISIT, EVENT, DOSING_VISIT}
        drawn_ids = dict.fromkeys(one for one in _ID.findall(text) if one not in kept)
        for number, one in enumerate(drawn_ids, 4):
            text = text.replace(one, f"00000000-0000-4000-8000-{number:012x}")
        text = _PID.sub(lambda found: found[0] if found[0] in {PERSON, SPARE} else PERSON, text)
        text = _STORED.sub('"2026-01-05T09:30:00.000000Z"', text)
        return json.loads(_TOKEN.sub(r'\1: "eyJhbGciOi..."', _ETAG.sub(r'\1: "\\"5f2b8c1d\\""', text)))


def toured(world: World) -> Tour:
    tour = Tour(world)
    reservation = tour.send("reserve_pids", world.staff_a, "/v1/pid-reservations")
    tour.names |= dict(zip(reservation["pids"], (PERSON, SPARE), strict=True))
    pid = tour.send("enrol", world.staff_a, "/v1/participants")["pid"]
    tour.send("close_pid_reservation", world.staff_a, f"/v1/pid-reservations/{reservation['id']}/closure")
    _visits(tour)
    _dosing(tour, pid)
    _safety(tour)
    _monitoring(tour)
    _participants(tour, f"/v1/participants/{pid}")
    _sync(tour)
    _data(tour)
    _users(tour)
    _site_apps(tour)
    return tour


def _visits(tour: Tour) -> None:
    world, staff = tour.world, tour.world.staff_a
    tour.names[tour.send("record_visit", staff, "/v1/visits")["id"]] = VISIT
    outcome = tour.send("record_outcome", staff, "/v1/outcomes")
    tour.correct("amend_outcome", staff, f"/v1/outcomes/{outcome['id']}")
    tour.send("rescore_outcome", staff, f"{an_older_outcome(world, 'A').headers['Location']}/rescoring")
    tour.void("void_outcome", staff, tour.upload("upload_outcomes", staff, "/v1/outcomes/bulk")["location"])
    tour.correct("amend_visit", staff, tour.upload("upload_visits", staff, "/v1/visits/bulk")["location"])
    tour.void("void_visit", staff, a_visit(world, "A").headers["Location"])


def _dosing(tour: Tour, pid: str) -> None:
    staff = tour.world.staff_a
    for code, day in (("PREP2", "2025-02-13"), ("PREP3", "2025-02-20")):
        held(staff, pid, code, day)
    visit = held(staff, pid, "DOS1", "2025-03-03")["id"]
    tour.names[visit] = DOSING_VISIT
    path = f"/v1/dosing-sessions/{tour.send('start_dosing_session', staff, '/v1/dosing-sessions')['id']}"
    (dose,) = tour.send("record_dose", staff, f"{path}/doses")["doses"]
    tour.correct("amend_dose", staff, path, f"/doses/{dose['id']}")
    reading = tour.send("record_vitals", staff, f"{path}/vitals")["vitals"][-1]
    tour.correct("amend_vitals", staff, path, f"/vitals/{reading['id']}")
    tour.correct("amend_dosing_session", staff, path)
    for where, body in (
        (f"{path}/vitals", vitals("END", "17:00")),
        ("/v1/outcomes", {"participant": pid, "visit": visit, **after_dose()}),
    ):
        assert staff.post(where, body).status_code == 201
    tour.send("close_dosing_session", staff, f"{path}/close")
    tour.void("void_vitals", staff, path, f"/vitals/{reading['id']}")
    tour.void("void_dosing_session", staff, path)


def _safety(tour: Tour) -> None:
    world, staff = tour.world, tour.world.staff_a
    event = tour.send("report_adverse_event", staff, "/v1/adverse-events")["id"]
    tour.names[event] = EVENT
    tour.correct("amend_adverse_event", staff, f"/v1/adverse-events/{event}")
    tour.void(
        "void_adverse_event", staff, tour.upload("upload_adverse_events", staff, "/v1/adverse-events/bulk")["location"]
    )
    serious = a_serious_event(world, "A").headers["Location"]
    tour.send("report_serious_event", staff, f"{serious}/reports")
    tour.send("review_event", world.monitor, f"{serious}/reviews")
    tour.send("withdraw_review", world.monitor, f"{serious}/reviews/1/withdrawal")
    tour.send("review_safety_signal", staff, f"/v1/safety-signals/{a_signal(world).json()['id']}/review")


def _monitoring(tour: Tour) -> None:
    world, monitor = tour.world, tour.world.monitor
    query = f"/v1/data-queries/{tour.send('raise_data_query', monitor, '/v1/data-queries')['id']}"
    tour.send("raise_data_queries", monitor, "/v1/data-queries/bulk")
    tour.send("answer_data_query", world.staff_a, f"{query}/answers")
    tour.send("decide_data_query", monitor, f"{query}/closure")
    tour.upload("upload_verifications", monitor, "/v1/verifications/bulk")
    verified = tour.send("record_verification", monitor, "/v1/verifications")["id"]
    tour.send("withdraw_verification", monitor, f"/v1/verifications/{verified}/withdrawal")
    visit = world.staff_a.get(f"/v1/visits/{tour.asked('sign')['visit']}").json()
    with_password(world, world.investigator)
    tour.send("sign", world.investigator, "/v1/signatures", content_sha256=content_of(world, visit), password=PASSWORD)
    lock = tour.send("set_lock", monitor, "/v1/locks")["id"]
    tour.send("lift_lock", monitor, f"/v1/locks/{lock}/lifting")
    disclosure = tour.send("ask_for_label", monitor, LABELS)["id"]
    tour.send("decide_on_label_disclosure", world.custodian, f"{LABELS}/{disclosure}/decision")


def _participants(tour: Tour, person: str) -> None:
    world, staff = tour.world, tour.world.staff_a
    tour.upload("upload_participants", staff, "/v1/participants/bulk")
    tour.send("find_participant", staff, "/v1/participants/lookup")
    tour.correct("amend_participant", staff, person)
    treatment = tour.send("add_treatment", staff, f"{person}/treatments")["id"]
    tour.correct("amend_treatment", staff, f"{person}/treatments/{treatment}")
    tour.void("void_treatment", staff, f"{person}/treatments/{treatment}")
    tour.send("change_status", staff, f"{person}/status")
    tour.send("withdraw_consent", staff, f"{person}/withdrawals")
    tour.send("void_withdrawal", staff, f"{person}/withdrawals/1/voiding")
    tour.send("answer_criteria", staff, f"/v1/participants/{open_screening(world)}/eligibility")
    again = f"/v1/participants/{screen_failed(world)}"
    tour.send("screen_again", staff, f"{again}/screenings")
    tour.void("void_screening", staff, again, "/screenings/2")
    tour.send("create_study", world.admin, "/v1/studies")
    tour.send("add_site", world.admin, f"/v1/studies/{world.study}/sites")
    tour.send("add_protocol", world.admin, f"/v1/studies/{world.study}/protocols")
    tour.send("move_to_protocol_version", staff, f"{person}/protocol-version")
    tour.send("give_consent", staff, f"{person}/consents")
    tour.void("void_consent", staff, person, "/consents/2/1")
    tour.void("void_participant", staff, f"/v1/participants/{world.enrolled()}")


def _sync(tour: Tour) -> None:
    staff = tour.world.staff_a
    tour.send("deliver", staff, "/v1/sync")
    tour.send("resolve_operation", staff, f"/v1/sync/{a_refused_act(staff)}/resolution")


def _data(tour: Tour) -> None:
    world, admin = tour.world, tour.world.admin
    tour.send("make_data_cut", world.custodian, "/v1/data-cuts")
    extract = f"/v1/extracts/{tour.send('request_extract', world.analyst, '/v1/extracts')['id']}"
    tour.send("decide_on_extract", world.custodian, f"{extract}/approval")
    tour.send("revoke_extract", world.custodian, f"{extract}/revocation")
    subscription = f"/v1/subscriptions/{tour.send('subscribe', admin, '/v1/subscriptions')['id']}"
    tour.correct("amend_subscription", admin, subscription)
    tour.send("renew_secret", admin, f"{subscription}/secret")
    tour.send("replay_delivery", admin, f"{a_dead_delivery(world)}/replay")
    tour.send("dismiss_delivery", admin, f"{a_dead_delivery(world)}/dismissal")


def _users(tour: Tour) -> None:
    client, admin = tour.world.registry.client, tour.world.admin
    user = f"/v1/users/{tour.send('create_user', admin, '/v1/users')['id']}"
    (grant,) = tour.send("grant_to_user", admin, f"{user}/grants")["grants"]
    first = {name: tour.asked("create_user")[name] for name in ("username", "password")}
    person = Caller(client, client.post("/v1/auth/sessions", json=first).json()["access_token"])
    tour.send("change_password", person, "/v1/me/password")
    secret = tour.send("offer_totp", person, "/v1/me/totp")["secret"]
    tour.send("confirm_totp", person, "/v1/me/totp/confirmation", code=totp_code(secret))
    tour.send("open_session", person, "/v1/auth/sessions", totp=totp_code(secret, 1))
    tour.correct("amend_user", admin, user)
    tour.send("link_identity", admin, f"{user}/identity")
    tour.send("set_password", admin, f"{user}/password")
    tour.send("revoke_user_sessions", admin, f"{user}/sessions/revocation")
    tour.send("revoke_user_grant", admin, f"{user}/grants/{grant['id']}/revocation")


def _site_apps(tour: Tour) -> None:
    client, admin = tour.world.registry.client, tour.world.admin
    made = tour.send("create_client", admin, "/v1/clients")
    app, identity = f"/v1/clients/{made['client_id']}", (made["client_id"], made["client_secret"])
    (grant,) = tour.send("grant_to_client", admin, f"{app}/grants")["grants"]
    form = tour.asked("issue_token")
    token = tour.heard("issue_token", client.post("/v1/auth/token", data=form, auth=identity))["access_token"]
    form = {**tour.asked("revoke_token"), "token": token}
    tour.heard("revoke_token", client.post("/v1/auth/revoke", data=form, auth=identity))
    (older,) = admin.get(app).json()["secrets"]
    tour.send("rotate_client_secret", admin, f"{app}/secrets")
    tour.send("revoke_client_secret", admin, f"{app}/secrets/{older['id']}/revocation")
    tour.send("revoke_client_grant", admin, f"{app}/grants/{grant['id']}/revocation")
    tour.correct("amend_client", admin, app)
