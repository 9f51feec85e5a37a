"""What a long upload takes of the server's memory."""

import json
from uuid import uuid4

from bench.machine import peak_megabytes
from tests.hostile import live_study
from tests.server import LiveServer

MEGABYTES = 30
"""Above what a short upload took: 5,000 lines have 1 MB, their results another, and no more than a batch is in work."""


def test_a_long_upload_is_worked_through_in_batches(live_server: LiveServer) -> None:
    with live_study(live_server) as study:
        people = [study.enrolled() for _ in range(6)]

        def lines(person: str, first: int, last: int) -> bytes:
            visit = {"participant": person, "visit_code": "UNS", "occurred_on": "2025-03-01", "status": "completed"}
            record = [
                json.dumps({"key": str(uuid4()), "record": {**visit, "occurrence": number}})
                for number in range(first, last)
            ]
            return "\n".join(record).encode() + b"\n"

        def upload(body: bytes) -> None:
            headers = {"Authorization": f"Bearer {study.staff.token}", "Content-Type": "application/x-ndjson"}
            answer = study.http.post("/v1/visits/bulk", content=body, headers=headers, timeout=120)
            assert answer.status_code == 200, answer.text[:500]

        upload(lines(people[0], 1, 501))
        before = peak_megabytes(live_server.process.pid)
        upload(b"".join(lines(person, 1, 1001) for person in people[1:]))
        assert peak_megabytes(live_server.process.pid) - before < MEGABYTES
