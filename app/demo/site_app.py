"""The app of one site: signs in with its client credentials and posts what happened, one record after the other."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from app.demo.caller import Caller
from app.demo.course import Course, Step
from app.demo.demo_file import DemoAccount

Say = Callable[[str], None]


def post_all(base_url: str, apps: Sequence[DemoAccount], courses: Sequence[Course], say: Say) -> Counter[str]:
    """Every site's courses through its own app, all sites at once; gives what was stored. Raises Refused."""
    stop = Event()
    with ThreadPoolExecutor(len(apps), thread_name_prefix="site-app") as threads:
        running = [threads.submit(_post_site, base_url, app, courses, say, stop) for app in apps]
        try:
            return sum((one.result() for one in running), Counter())
        finally:
            stop.set()  # after a failure or Ctrl-C the other sites post no further


def _post_site(base_url: str, app: DemoAccount, courses: Sequence[Course], say: Say, stop: Event) -> Counter[str]:
    (site,) = app.sites
    own = [course for course in courses if course.site == site]
    stored: Counter[str] = Counter()
    with Caller.signed_in(base_url, app) as caller:
        for course in own:
            pid = caller.post("/v1/participants", course.enrolment)["pid"]
            stored["participant"] += 1
            for step in course.steps:
                if stop.is_set():
                    return stored
                _post(caller, pid, step)
                stored[step.kind] += 1
                stored["outcome"] += len(step.body.get("outcomes", []))
            say(f"  {site}: participant {stored['participant']} of {len(own)}, {stored['visit']} visits so far")
    return stored


def _post(caller: Caller, pid: str, step: Step) -> None:
    if step.kind == "status":
        caller.post(f"/v1/participants/{pid}/status", step.body)
    else:
        path = "/v1/visits" if step.kind == "visit" else "/v1/adverse-events"
        caller.post(path, {"participant": pid, **step.body})
