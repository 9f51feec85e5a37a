"""`python -m bench.mutations --engine sqlite --requests 20000`: damage valid requests byte by byte.

Cursors, idempotency keys, If-Match headers, ids, query strings, JSON bodies and NDJSON uploads of valid requests are
damaged at random. No answer may be a server error, each refusal must be a problem document, and afterwards every audit
chain must verify.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import uuid4

from httpx2 import Response

from app import audit
from bench.in_process import registry_of
from tests.world import Registry, World, madrs

ODD = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xae",
        b"\r\n",
        b"\n\n",
        b"\x7f",
        b"%00",
        b"%zz",
    ),
    *(b"'", b'"', b"\\", b'"\\ud800"', b'"\\u0000"', b"[" * 1_500, b'{"a":' * 1_500, b"null", b"true", b"{}", b"[]"),
    *(b"NaN", b"-0", b"1e400", b"9" * 400, b"-1", b"2147483648", b"9223372036854775808", b"0.1e-400", b"A" * 3_000),
    *(b"0001-01-01", b"9999-12-31", b"2025-02-30", b"..", b"@", b",", b"=", b"~"),
)
LISTS = ("participants", "visits", "outcomes", "adverse-events", "data-queries", "safety-signals", "locks", "changes")


@dataclass
class Report:
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def damaged(chance: random.Random, sent: bytes) -> bytes:
    """One to four changes of it."""
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.randint(0, len(sent)) for _ in range(2))
        match chance.randrange(6):
            case 0:
                sent = sent[:at] + bytes([chance.randrange(256)]) + sent[at + 1 :]
            case 1:
                sent = sent[:at] + chance.choice(ODD) + sent[at:]
            case 2:
                sent = sent[:at] + chance.choice(ODD) + sent[to:]
            case 3:
                sent = sent[:at] + sent[min(to, at + 8) :]
            case 4:
                sent = sent[:to] + sent[at:to] + sent[to:]
            case _:
                sent = sent[:at]
    return sent


class Damage:
    """A study with one record of each kind, and requests about them that are nearly right."""

    def __init__(self, registry: Registry, seed: int) -> None:
        self.world, self.chance, self.client = World(registry), random.Random(seed), registry.client
        self.staff, self.pid = self.world.staff_a, self.world.enrolled()
        self.visit = self._made("visits", self.world.visit(self.pid, "UNS", outcomes=[madrs(3)]))
        self.event = self._made("adverse-events", self.world.event(self.pid))
        for _ in range(3):
            self.world.enrolled()
        for occurrence in (2, 3):
            self._made("visits", self.world.visit(self.pid, "UNS", occurrence=occurrence))
            self._made("adverse-events", self.world.event(self.pid))
        self.kinds: Mapping[str, Callable[[], Response]] = {
            "cursor": self._cursor,
            "key": self._key,
            "if-match": self._if_match,
            "id": self._id,
            "query": self._query,
            "body": self._body,
            "amendment": self._amendment,
            "lines": self._lines,
            "sync": self._sync,
        }

    def one(self) -> tuple[str, Response]:
        kind = self.chance.choice(list(self.kinds))
        return kind, self.kinds[kind]()

    def _made(self, noun: str, body: Any) -> Response:
        answer = self.staff.post(f"/v1/{noun}", body)
        assert answer.status_code == 201, answer.text
        return answer

    def _send(self, method: str, path: str, content: bytes = b"", **headers: bytes) -> Response:
        named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        signed = {
            b"Authorization": f"Bearer {self.staff.token}".encode(),
            b"Content-Type": b"application/json",
            **named,
        }
        return self.client.request(method, path, content=content, headers=list(signed.items()))

    def _cursor(self) -> Response:
        noun = self.chance.choice(LISTS)
        name = "after" if noun == "changes" else "cursor"
        valid = self.staff.get(f"/v1/{noun}", study=self.world.study, limit=1).json()["next"] or "WyJhIiwxXQ"
        value = quote_from_bytes(damaged(self.chance, valid.encode()))
        return self._send("GET", f"/v1/{noun}?study={self.world.study}&limit=1&{name}={value}"[:4_000])

    def _key(self) -> Response:
        body = json.dumps(self.world.event(self.pid)).encode()
        key = damaged(self.chance, str(uuid4()).encode())
        return self._send("POST", "/v1/adverse-events", body, Idempotency_Key=key)

    def _if_match(self) -> Response:
        tag = damaged(self.chance, self.event.headers["ETag"].encode())
        body = b'{"reason": "seen in the file", "severity": "severe"}'
        return self._send("PATCH", self.event.headers["Location"], body, If_Match=tag)

    def _id(self) -> Response:
        path = self.chance.choice([f"/v1/participants/{self.pid}", self.visit.headers["Location"]])
        start, _, name = path.rpartition("/")
        below = self.chance.choice(["", "/history", "/schedule"])
        return self._send("GET", f"{start}/{quote_from_bytes(damaged(self.chance, name.encode()))}{below}"[:4_000])

    def _query(self) -> Response:
        noun = self.chance.choice(LISTS)
        valid = f"study={self.world.study}&site=A&limit=2&participant={self.pid}&serious=true&changed_since=2025-01-01"
        query = quote_from_bytes(damaged(self.chance, valid.encode()), safe="=&")
        return self._send("GET", f"/v1/{noun}?{query}"[:4_000])

    def _bodies(self) -> Mapping[str, Any]:
        outcome = {"participant": self.pid, "visit": self.visit.json()["id"], **madrs(2)}
        return {
            "participants": self.world.enrolment(),
            "visits": self.world.visit(self.pid, "UNS", occurrence=self.chance.randint(4, 900), outcomes=[madrs(1)]),
            "outcomes": outcome,
            "adverse-events": self.world.event(self.pid),
        }

    def _body(self) -> Response:
        noun, body = self.chance.choice(list(self._bodies().items()))
        path = f"/v1/{noun}{self.chance.choice(['', '?dry_run=true'])}"
        content = damaged(self.chance, json.dumps(body).encode())
        return self._send("POST", path, content, Idempotency_Key=str(uuid4()).encode())

    def _amendment(self) -> Response:
        seen = self.staff.get(self.event.headers["Location"]).headers["ETag"]
        changes = {"reason": "seen in the file", "severity": "severe", "outcome": "recovering", "onset": "2025-02-04"}
        content = damaged(self.chance, json.dumps(changes).encode())
        return self._send("PATCH", self.event.headers["Location"], content, If_Match=seen.encode())

    def _lines(self) -> Response:
        noun, _ = self.chance.choice(list(self._bodies().items()))
        lines = [json.dumps({"key": str(uuid4()), "record": self._bodies()[noun]}) for _ in range(4)]
        form = self.chance.choice([b"application/x-ndjson", b"application/json", b"text/plain"])
        content = "\n".join(lines) if form != b"application/json" else f"[{','.join(lines)}]"
        atomic = self.chance.choice(["", "?atomic=true"])
        return self._send("POST", f"/v1/{noun}/bulk{atomic}", damaged(self.chance, content.encode()), Content_Type=form)

    def _sync(self) -> Response:
        bodies = self._bodies()
        acts = [
            {"id": str(uuid4()), "method": "POST", "path": f"/v1/{noun}", "body": bodies[noun]}
            for noun in ("adverse-events", "visits")
        ]
        content = damaged(self.chance, json.dumps({"operations": acts}).encode())
        return self._send("POST", "/v1/sync", content, Idempotency_Key=str(uuid4()).encode())


def damage(registry: Registry, requests: int, seed: int = 1) -> Report:
    """So many damaged requests, and what is wrong with their answers."""
    report, sender = Report(), Damage(registry, seed)
    for number in range(requests):
        kind, answer = sender.one()
        report.statuses[answer.status_code] += 1
        form = answer.headers.get("content-type", "")
        told = answer.status_code < 400 or form.startswith(("application/problem+json", "application/x-ndjson"))
        if answer.status_code >= 500 or not told:
            report.faults.append(f"request {number} ({kind}): {answer.status_code} {answer.text[:300]}")
    with registry.database.read() as session:
        report.faults += [f"chain {one.site_id}: {one.fault}" for one in audit.verify(session) if one.fault]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, registry_of(options.engine, Path(name)) as registry:
        report = damage(registry, options.requests, options.seed)
    answered = ", ".join(f"{number} x {status}" for status, number in sorted(report.statuses.items()))
    print(f"{options.engine}: {options.requests} damaged requests: {answered}; {len(report.faults)} faults")
    print("\n".join(report.faults[:50]))
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
