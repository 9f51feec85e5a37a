"""Loading the demo over HTTP: the admin makes study and accounts, three site apps post, an analyst gets an extract."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter

from app.demo.caller import Caller, token_of
from app.demo.course import courses
from app.demo.demo_file import Demo, DemoAccount
from app.demo.server import ADMIN, TOKEN_SECONDS
from app.demo.setup import SITES, STUDY, make_accounts, make_study
from app.demo.site_app import post_all


def load(base_url: str, password: str) -> Demo:
    """Load the demo into a new registry. Raises RegistryFailure."""
    admin = DemoAccount(role="admin", organisation="Registry office", username=ADMIN, password=password)
    with Caller.signed_in(base_url, admin) as caller:
        say(f"Admin: study {STUDY} with protocol mdma-mdd-generic/1 and the sites {', '.join(SITES)} ...")
        make_study(caller)
        say("Admin: accounts of site staff, site apps, monitors, analysts and custodians ...")
        accounts = [*make_accounts(caller, base_url), admin]
    say("Three site apps post what happened to fourteen synthetic participants ...")
    say(f"Stored: {_counted(post_all(base_url, site_apps(accounts), courses(), say))}.")
    demo = Demo(base_url=base_url, study=STUDY, sites=[*SITES], extract="", accounts=accounts)
    sign_everybody_in(demo)
    say("The investigator of the first site signs a participant's record ...")
    _sign(demo)
    say("Analyst asks for an extract, custodian approves it ...")
    demo.extract = new_extract(demo)
    return demo


def site_apps(accounts: Sequence[DemoAccount]) -> list[tuple[DemoAccount, DemoAccount]]:
    """Each site app, with the person at its site."""
    staff = {one.sites[0]: one for one in accounts if one.role == "site_staff" and one.kind == "user"}
    return [(app, staff[app.sites[0]]) for app in accounts if app.kind == "client"]


def sign_everybody_in(demo: Demo) -> None:
    """Put a new token into every account. Raises RegistryFailure."""
    say(f"Signing in {len(demo.accounts)} accounts ...")
    for account in demo.accounts:
        account.token = token_of(demo.base_url, account)


def first_pid(demo: Demo) -> str:
    """The pid of the first site's first participant, looked up by the site's label."""
    with Caller(demo.base_url, demo.first("site_staff").token) as staff:
        label = {"study": demo.study, "site": demo.sites[0], "site_local_id": f"{demo.sites[0]}-001"}
        return str(staff.post("/v1/participants/lookup", label)["pid"])


def serious_event(demo: Demo) -> dict[str, str]:
    """The id and site of the first serious adverse event in the monitor's list; of the first event if none is
    serious."""
    with Caller(demo.base_url, demo.first("monitor").token) as monitor:
        newest_first = monitor.get("/v1/adverse-events", limit=500)["items"]
        event = max(reversed(newest_first), key=itemgetter("serious"))
        return {name: str(event[name]) for name in ("id", "site")}


def say(line: str) -> None:
    """Print a whole line at once, as several threads do it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _counted(stored: Counter[str]) -> str:
    plural = {"status": "changes of status", "safety signal reviewed": "safety signals reviewed"}
    return ", ".join(f"{count} {plural.get(kind, kind + 's')}" for kind, count in stored.items())


def _sign(demo: Demo) -> None:
    """Let the investigator sign the first participant's record as it is now."""
    investigator, pid = demo.first("investigator"), first_pid(demo)
    with Caller(demo.base_url, investigator.token) as caller:
        content = caller.get("/v1/signatures/content", participant=pid)
        signature = {"participant": pid, "meaning": "approval", "content_sha256": content["content_sha256"]}
        caller.post("/v1/signatures", {**signature, "password": investigator.password})


def lasting_extract(demo: Demo) -> str:
    """The id of an extract that can be downloaded as long as the demo's tokens are valid: the last one, or a new one if
    its files expire earlier."""
    with Caller(demo.base_url, demo.first("analyst").token) as analyst:
        known = analyst.get(f"/v1/extracts/{demo.extract}")
    until = datetime.now(UTC) + timedelta(seconds=TOKEN_SECONDS)
    if known["status"] == "ready" and datetime.fromisoformat(known["expires_at"]) > until:
        return demo.extract
    say("The extract's time is over: analyst asks for another, custodian approves it ...")
    return new_extract(demo)


def new_extract(demo: Demo) -> str:
    """Ask for an extract and approve it; gives its id once it can be downloaded."""
    with Caller(demo.base_url, demo.first("analyst").token) as analyst:
        wish = {"study": demo.study, "purpose": "Course of MADRS and Sheehan scores (demo)"}
        asked = analyst.post("/v1/extracts", wish)
    with Caller(demo.base_url, demo.first("custodian").token) as custodian:
        verdict = {"decision": "approve", "reason": "Synthetic data"}
        custodian.post(f"/v1/extracts/{asked['id']}/approval", verdict)
        while custodian.get(f"/v1/extracts/{asked['id']}")["status"] == "building":
            time.sleep(0.1)
    return str(asked["id"])
