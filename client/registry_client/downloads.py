"""Extracts: wait for one, and download it whole or not at all."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from registry_client.answers import Record, meant
from registry_client.calls import Call, Caller, Pause, Steps
from registry_client.errors import Damaged, NotReady

PART_BYTES = 1 << 22
LOOK_SECONDS = 1.0
Progress = Callable[[str, int, int], None]
"""Called with the name of a file, the bytes received and the bytes of the whole file."""


def silent(_name: str, _have: int, _whole: int) -> None:
    """Shows no progress."""


def built(caller: Caller, extract_id: str, wait: float) -> Steps[dict[str, Any]]:
    """An extract once it is no longer `building`, or as it is after this many seconds."""
    until = time.monotonic() + wait
    while True:
        answer = yield from caller.answered(Call("GET", f"/v1/extracts/{extract_id}"))
        found: dict[str, Any] = meant(answer).body
        if found["status"] != "building" or time.monotonic() > until:
            return found
        yield Pause(LOOK_SECONDS)


def downloaded(caller: Caller, extract_id: str, folder: Path, progress: Progress) -> Steps[list[Path]]:
    """Download all files of an extract and check each against its SHA-256. Raises NotReady, Damaged, Refused,
    Unreachable."""
    answer = yield from caller.answered(Call("GET", f"/v1/extracts/{extract_id}"))
    extract = meant(answer).body
    if extract["status"] != "ready":
        raise NotReady(f"The extract is {extract['status']}.")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for one in extract["files"]:
        path = f"/v1/extracts/{extract_id}/files/{one['name']}"
        files.append((yield from _file(caller, path, folder, one, progress)))
    return files


def _file(caller: Caller, path: str, folder: Path, file: Record, progress: Progress) -> Steps[Path]:
    """Download into a temporary file beside the final one; after a failure it goes on where it stopped."""
    partial, whole = folder / f"{file['name']}.part", folder / str(file["name"])
    if whole.exists() and _sha256(whole) == file["sha256"]:
        progress(file["name"], file["bytes"], file["bytes"])
        return whole
    with partial.open("ab") as target:
        while (have := target.tell()) < file["bytes"]:
            last = min(have + PART_BYTES, file["bytes"]) - 1
            wanted = {"Range": f"bytes={have}-{last}", "If-Range": f'"{file["sha256"]}"'}
            answer = yield from caller.answered(Call("GET", path, headers=wanted))
            if not answer.is_success:
                meant(answer)
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                raise Damaged(f"{file['name']} is another file now")
            target.write(answer.content)
            progress(file["name"], target.tell(), file["bytes"])
    if _sha256(partial) != file["sha256"]:
        partial.unlink()
        raise Damaged(f"{file['name']} does not have the checksum that was announced")
    return partial.rename(whole)


def _sha256(file: Path) -> str:
    with file.open("rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()
