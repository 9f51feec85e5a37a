"""What the demo prints at its end: tokens, and requests to paste into a shell."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from app.demo.demo_file import Demo


def tour(demo: Demo, pid: str, serious: Mapping[str, str], file: Path, proxied: bool) -> str:
    """The tour of three users. `pid`: a participant of the first site; `serious`: id and site of a serious adverse
    event; `proxied`: the environment names a proxy."""
    site = demo.sites[0]
    staff, monitor, analyst = (demo.first(role).token for role in ("site_staff", "monitor", "analyst"))
    label = {"study": demo.study, "site": site, "site_local_id": f"{site}-001"}
    phq9 = {"instrument": "PHQ9", "items": {f"PHQ9_{number:02d}": number % 3 for number in range(1, 10)}}
    visit = {"participant": pid, "visit_code": "UNS", "occurred_on": "2025-06-02", "status": "completed"}
    wish = {"study": demo.study, "profile": "deidentified", "purpose": "Course of MADRS (demo)"}
    event, other = f"adverse-events/{serious['id']}", serious["site"]
    report = {"kind": "initial", "late_reason": "The hospital told us weeks later"}
    lines = [
        "# ---- paste from here into another shell ----",
        *(["export no_proxy=127.0.0.1"] if proxied else []),
        f"API={demo.base_url}/v1",
        f"STAFF={staff}",
        f"OTHER={demo.first('site_staff', other).token}",
        f"MONITOR={monitor}",
        f"ANALYST={analyst}",
        "",
        f"# Site staff of {site}: find a participant by the label of the site, then post a visit and get its scores.",
        "# Paste the second again: the same Idempotency-Key gives the first answer again, nothing is doubled.",
        _post("STAFF", "participants/lookup", label),
        _post("STAFF", "visits", {**visit, "outcomes": [phq9]}, _key(demo, "visit")),
        "",
        "# Monitor of two sites: what is urgent this morning, the serious event behind it, and its clock.",
        _get("MONITOR", f"monitoring/summary?study={demo.study}"),
        _get("MONITOR", f"adverse-events?study={demo.study}&serious=true"),
        _get("MONITOR", f"{event}/clocks"),
        f"# Site staff of {other}: the report that was missing. It is late, so it says why.",
        _post("OTHER", f"{event}/reports", report, _key(demo, "report")),
        "# Monitor: read the report, acknowledge it, and see the clock met. Then the first page of moderate events.",
        _get("MONITOR", f"{event}/reports"),
        _post("MONITOR", f"{event}/reviews", {"kind": "acknowledged", "version": 1}, _key(demo, "review")),
        _get("MONITOR", f"{event}/clocks"),
        _get("MONITOR", f"adverse-events?study={demo.study}&severity=moderate&limit=2"),
        "",
        "# Analyst: an extract that a custodian has approved, its outcomes, and a request for another one.",
        _get("ANALYST", f"extracts/{demo.extract}"),
        _get("ANALYST", f"extracts/{demo.extract}/files/outcomes.csv", "-o outcomes.csv"),
        _post("ANALYST", "extracts", wish, _key(demo, "extract")),
        "# ---- to here ----",
        "",
        f"All accounts and their tokens: {file}",
        f"Every route: {demo.base_url}/v1/openapi.json",
    ]
    # An apostrophe in a comment would open a string in a zsh.
    assert not any("'" in line for line in lines if line.startswith("#"))
    return "\n".join(lines)


def _key(demo: Demo, name: str) -> str:
    """The Idempotency-Key of a line, always the same for a study, so that a line pasted twice is done once."""
    return str(uuid5(NAMESPACE_OID, f"{demo.study} {name}"))


def _get(who: str, path: str, *options: str) -> str:
    return " ".join(
        ["curl -sS --fail-with-body -w '\\n'", f'"$API/{path}"', f'-H "Authorization: Bearer ${who}"', *options]
    )


def _post(who: str, path: str, body: dict[str, Any], key: str | None = None) -> str:
    headers = ["-H 'Content-Type: application/json'", *([f"-H 'Idempotency-Key: {key}'"] if key else [])]
    sent = shlex.quote(json.dumps(body, separators=(",", ":")))
    return _get(who, path, *headers, "-d", sent)
