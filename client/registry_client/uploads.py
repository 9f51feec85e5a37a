"""Bulk uploads, a part at a time: what was not tried is sent again, and only that."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from registry_client.answers import IN_FLIGHT, NDJSON, Record, is_for_later, meant
from registry_client.calls import Call, Caller, Patience, Steps

BULK_LINES, BULK_BYTES = 500, 900_000
"""The most that one request holds: proxies commonly refuse bodies of more than 1 MiB."""

Part = Sequence[tuple[str, Record]]
"""Records, each with its key."""


class Line(NamedTuple):
    """The result of one record of an upload: `created`, `replayed`, `valid`, `invalid`, `conflict` or `blocked`."""

    key: str
    result: str
    location: str | None
    problem: Mapping[str, Any] | None


def parts(records: Iterable[tuple[str, Record]]) -> Iterator[Part]:
    part: list[tuple[str, Record]] = []
    size = 0
    for key, record in records:
        added = len(_line(key, record))
        if part and (len(part) == BULK_LINES or size + added > BULK_BYTES):
            yield part
            part, size = [], 0
        part.append((key, record))
        size += added
    if part:
        yield part


def uploaded(caller: Caller, noun: str, part: Part, dry_run: bool) -> Steps[tuple[list[Line], Part]]:
    """Send a part until some of it was tried; gives those results, and the rest. Raises Refused, Unreachable."""
    call, patience = _uploading(noun, part, dry_run), Patience(caller.patience)
    while True:
        answer = yield from caller.answered(call)
        results = _results(answer, part)
        if results:
            return list(results.values()), [one for one in part if one[0] not in results]
        yield patience.pause(str(call), "no line was taken")


def _uploading(noun: str, part: Part, dry_run: bool) -> Call:
    content = b"".join(_line(key, record) for key, record in part)
    headers = {"Content-Type": NDJSON}
    return Call("POST", f"/v1/{noun}/bulk", {"dry_run": dry_run} if dry_run else None, content=content, headers=headers)


def _line(key: str, record: Record) -> bytes:
    return json.dumps({"key": key, "record": dict(record)}).encode() + b"\n"


def _results(answer: httpx.Response, part: Part) -> dict[str, Line]:
    """By key, the lines that were tried. Raises Refused."""
    if not answer.headers.get("Content-Type", "").startswith(NDJSON):
        meant(answer)
    answers = [json.loads(text) for text in answer.text.splitlines()]
    return {
        key: Line(key, one["result"], one.get("location"), one.get("problem"))
        for (key, _), one in zip(part, answers, strict=False)
        if not _untried(one)
    }


def _untried(line: Record) -> bool:
    """Whether a line was not tried: the server could not take it just now, it was one line too many, or an earlier try
    of it is not finished."""
    code = (line.get("problem") or {}).get("code")
    return is_for_later(line.get("status", 0)) or code in {"too_many_lines", IN_FLIGHT}
