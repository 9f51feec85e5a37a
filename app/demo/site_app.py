"""The app of one site: signs in with its client credentials and posts its records one after the other. Reviews of
safety signals are posted with the token of the site's staff, as only a person may make them."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from app.demo.caller import Caller
from app.demo.course import Course, Step
from app.demo.demo_file import DemoAccount

Say = Callable[[str], None]


Users = tuple[DemoAccount, DemoAccount]
"""A site's app, and the person who uses it."""


def post_all(base_url: str, sites: Sequence[Users], courses: Sequence[Course], say: Say) -> Counter[str]:
    """Post every site's courses by its own app, all sites at once; gives the numbers stored. Raises RegistryFailure."""
    stop = Event()
    with ThreadPoolExecutor(len(sites), thread_name_prefix="site-app") as threads:
        running = [threads.submit(_post_site, base_url, users, courses, say, stop) for users in sites]
        try:
            return sum((one.result() for one in running), Counter())
        finally:
            stop.set()  # after a failure or Ctrl-C the other sites post no further


def _post_site(base_url: str, users: Users, courses: Sequence[Course], say: Say, stop: Event) -> Counter[str]:
    app, person = users
    (site,) = app.sites
    own = [course for course in courses if course.site == site]
    stored: Counter[str] = Counter()
    with Caller.signed_in(base_url, app) as caller, Caller.signed_in(base_url, person) as clinician:
        for course in own:
            pid = caller.post("/v1/participants", course.enrolment)["pid"]
            stored["participant"] += 1
            for step in course.steps:
                if stop.is_set():
                    return stored
                stored.update(_post(caller, clinician, pid, step))
            say(f"  {site}: participant {stored['participant']} of {len(own)}, {stored['visit']} visits so far")
    return stored


def _post(caller: Caller, clinician: Caller, pid: str, step: Step) -> Counter[str]:
    """Send one step with what belongs to it; gives the numbers stored."""
    if step.kind == "status":
        caller.post(f"/v1/participants/{pid}/status", step.body)
        return Counter({"status": 1})
    path = "/v1/visits" if step.kind == "visit" else "/v1/adverse-events"
    made = caller.post(path, {"participant": pid, **step.body})
    stored = Counter({step.kind: 1, "outcome": len(step.body.get("outcomes", []))})
    if step.dosing is not None:
        stored["safety signal reviewed"] = _review_signals(clinician, pid)
        session = caller.post("/v1/dosing-sessions", {"visit": made["id"], **step.dosing.start})
        for below, body in step.dosing.below:
            caller.post(f"/v1/dosing-sessions/{session['id']}{below}", body)
        stored["dosing session"] = 1
    return stored


def _review_signals(clinician: Caller, pid: str) -> int:
    """Let the site's clinician review each open safety signal, as no dose may be given before; gives their number."""
    waiting = clinician.get("/v1/safety-signals", participant=pid, state="open")["items"]
    for signal in waiting:
        seen = {"decision": "managed", "assessment": "Talked with the participant; no intent, safety plan in place"}
        clinician.post(f"/v1/safety-signals/{signal['id']}/review", seen)
    return len(waiting)
