"""Bulk uploads, a part at a time: what was not tried is sent again, and only that."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import httpx

from registry_client.answers import IN_FLIGHT, Record, meant
from registry_client.calls import Call, Caller, Patience, Steps

BULK_LINES = 500
Part = Sequence[tuple[str, Record]]
"""Records, each with its key."""


class Line(NamedTuple):
    """What became of one record of an upload: `created`, `replayed`, `valid`, `invalid`, `conflict` or `blocked`."""

    key: str
    result: str
    location: str | None
    problem: Mapping[str, Any] | None


def parts(records: Iterable[tuple[str, Record]]) -> Iterator[Part]:
    waiting = iter(records)
    while part := list(islice(waiting, BULK_LINES)):
        yield part


def uploaded(caller: Caller, noun: str, part: Part, dry_run: bool) -> Steps[tuple[list[Line], Part]]:
    """Send a part until some of it was tried; gives what became of that, and the rest. Raises Refused, Unreachable."""
    call, patience = _uploading(noun, part, dry_run), Patience(caller.patience)
    while True:
        answer = yield from caller.answered(call)
        told = _told(answer, part)
        if told:
            return list(told.values()), [one for one in part if one[0] not in told]
        yield patience.pause(str(call), "no line was taken")


def _uploading(noun: str, part: Part, dry_run: bool) -> Call:
    content = b"".join(json.dumps({"key": key, "record": dict(record)}).encode() + b"\n" for key, record in part)
    headers = {"Content-Type": "application/x-ndjson"}
    return Call("POST", f"/v1/{noun}/bulk", {"dry_run": dry_run} if dry_run else None, content=content, headers=headers)


def _told(answer: httpx.Response, part: Part) -> dict[str, Line]:
    """By key, the lines that were tried. Raises Refused."""
    if not answer.headers.get("Content-Type", "").startswith("application/x-ndjson"):
        meant(answer)
    answers = [json.loads(text) for text in answer.text.splitlines()]
    return {
        key: Line(key, one["result"], one.get("location"), one.get("problem"))
        for (key, _), one in zip(part, answers, strict=False)
        if not _untried(one)
    }


def _untried(line: Record) -> bool:
    """The database could not take it just now, it was one line too many, or an earlier try of it still goes on."""
    code = (line.get("problem") or {}).get("code")
    return line.get("status") == httpx.codes.SERVICE_UNAVAILABLE or code in {"too_many_lines", IN_FLIGHT}
