"""Adverse events, data queries and what else a monitor works with: a valid request for each of their routes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from httpx2 import Response

from app.models.base import now
from tests.world import Caller, Case, World, made, posted_below, read_of, staff


def an_event(world: World, site: str) -> Response:
    return made(world, site, "/v1/adverse-events", world.event(world.enrolled(site)))


def a_serious_event(world: World, site: str) -> Response:
    body = world.event(world.enrolled(site), criteria={"hospitalisation": True}, aware_at=shown(now()))
    return made(world, site, "/v1/adverse-events", body)


def shown(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def a_report(world: World, site: str) -> Response:
    """The first report of a serious event."""
    path = f"{a_serious_event(world, site).headers['Location']}/reports"
    return made(world, site, path, {"kind": "initial"})


def nullification(**changes: Any) -> dict[str, Any]:
    """A report that takes an event back, of which the site became aware just now."""
    why = {"nullification_reason": "Of another participant, whose event is reported"}
    return {"kind": "nullification", "aware_at": shown(now()), **why, **changes}


def a_review(world: World, site: str) -> str:
    """The path of the monitor's review of a serious event."""
    path = f"{a_serious_event(world, site).headers['Location']}/reviews"
    assert world.monitor.post(path, {"kind": "acknowledged", "version": 1}).status_code == 201
    return f"{path}/1"


def _below_event(below: str) -> Case:
    return lambda world, caller, site: caller.get(
        f"{a_report(world, site).headers['Location'].rpartition('/reports')[0]}/{below}"
    )


def question_about(event: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A valid data query on the onset of an adverse event."""
    about = {"participant": event["participant"], "subject_type": "adverse_event", "subject": event["id"]}
    return {**about, "field": "/onset", "text": "Please check the onset against the source", **changes}


def a_question(world: World, site: str, answered: bool = False) -> str:
    """The path of a data query that the study's monitor raised at a site."""
    raised = world.monitor.post("/v1/data-queries", question_about(an_event(world, site).json()))
    assert raised.status_code == 201, raised.text
    path: str = raised.headers["Location"]
    if answered:
        assert staff(world, site).post(f"{path}/answers", {"text": "Checked"}).status_code == 201
    return path


def _ask(world: World, caller: Caller, site: str) -> Response:
    return caller.post("/v1/data-queries", question_about(an_event(world, site).json()))


def _ask_much(world: World, caller: Caller, site: str) -> Response:
    return caller.post("/v1/data-queries/bulk", [question_about(an_event(world, site).json())])


def _amend_event(world: World, caller: Caller, site: str) -> Response:
    event = an_event(world, site)
    return caller.patch(
        event.headers["Location"], {"reason": "typed wrongly", "severity": "severe"}, event.headers["ETag"]
    )


MONITOR_CASES: Mapping[tuple[str, str], Case] = {
    ("POST", "/v1/adverse-events"): lambda world, caller, site: caller.post(
        "/v1/adverse-events", world.event(world.enrolled(site))
    ),
    ("GET", "/v1/adverse-events/{event_id}"): read_of(an_event),
    ("GET", "/v1/adverse-events/{event_id}/history"): read_of(an_event, "/history"),
    ("PATCH", "/v1/adverse-events/{event_id}"): _amend_event,
    ("POST", "/v1/adverse-events/{event_id}/reports"): posted_below(a_serious_event, "reports", {"kind": "initial"}),
    ("GET", "/v1/adverse-events/{event_id}/reports"): _below_event("reports"),
    ("GET", "/v1/adverse-events/{event_id}/reports/{number}"): _below_event("reports/1"),
    ("POST", "/v1/adverse-events/{event_id}/reviews"): posted_below(
        an_event, "reviews", {"kind": "acknowledged", "version": 1}
    ),
    ("GET", "/v1/adverse-events/{event_id}/reviews"): _below_event("reviews"),
    ("POST", "/v1/adverse-events/{event_id}/reviews/{number}/withdrawal"): posted_below(
        a_review, "withdrawal", {"reason": "the wrong event"}
    ),
    ("GET", "/v1/adverse-events/{event_id}/clocks"): _below_event("clocks"),
    ("POST", "/v1/data-queries"): _ask,
    ("POST", "/v1/data-queries/bulk"): _ask_much,
    ("GET", "/v1/data-queries/{query_id}"): read_of(a_question),
    ("POST", "/v1/data-queries/{query_id}/answers"): posted_below(a_question, "answers", {"text": "Checked"}),
    ("POST", "/v1/data-queries/{query_id}/closure"): lambda world, caller, site: caller.post(
        f"{a_question(world, site, answered=True)}/closure", {"decision": "close", "reason": "settled"}
    ),
}
