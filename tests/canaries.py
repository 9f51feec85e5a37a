"""Marked values, where each was sent, and the search for them in every place that they must not reach."""

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import structlog
from httpx2 import Response
from sqlalchemy import Engine, select
from sqlmodel import SQLModel

SECRET = frozenset(
    {"password", "current", "new", "code of a person", "totp", "site_local_id", "client_secret", "token"}
)
"""Fields that come out nowhere, however welcome the request was."""

ALIASES = {
    "username": ["login"],
    "name": ["display_name"],
    "term": ["pt", "soc"],
    "reason": ["decision_reason", "lifting_reason", "text", "voiding_reason", "withdrawal_reason"],
}
"""Fields of requests whose values answers show under other names."""


@dataclass
class Sent:
    field: str
    where: str
    stored: bool = False
    """The request was accepted, and the field is one to be read back: the database and the trail may hold it."""


@dataclass
class Canaries:
    """Every mark is one of a kind, so that a leak names the field it came from."""

    prefix: str = field(
        default_factory=lambda: "Zq7" + "".join(chr(ord("f") + byte % 16) for byte in uuid4().bytes[:6])
    )
    sent: list[Sent] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def mark(self, name: str, where: str) -> str:
        self.sent.append(Sent(name, where))
        return f"{self.prefix}{len(self.sent) - 1:05d}"

    def answered(self, answer: Response, *accepted: str) -> Response:
        """Hold an answer against the rule. The marks `accepted` are kept from now on if the request was."""
        if answer.is_success:
            for mark in accepted:
                self._of(mark).stored = self._of(mark).field not in SECRET
            self._shown(answer)
        else:
            self.search(f"answer {answer.status_code}", f"{answer.headers}{answer.text}")
        return answer

    def search(self, place: str, text: str, but_stored: bool = False) -> None:
        """Note every mark in `text`; with `but_stored` those apart that are there by right."""
        for number in sorted(set(self._numbers(text))):
            sent = self.sent[int(number)]
            if not (but_stored and sent.stored):
                self.leaks.append(f"{place}: {sent.where} {sent.field}")

    def _numbers(self, text: str) -> list[str]:
        return re.findall(f"{self.prefix}([0-9]{{5}})", text, re.IGNORECASE)

    def _of(self, mark: str) -> Sent:
        return self.sent[int(mark[len(self.prefix) :][:5])]

    def _shown(self, answer: Response) -> None:
        headers = [value for name, value in answer.headers.items() if name != "location"]
        self.search("headers", "\n".join(headers))
        self.search("Location", answer.headers.get("location", ""), but_stored=True)
        if "json" not in answer.headers.get("content-type", ""):
            self.search("answer", answer.text)
            return
        for name, text in _leaves(answer.json()):
            for number in self._numbers(text):
                sent = self.sent[int(number)]
                if not sent.stored or name not in [sent.field, *ALIASES.get(sent.field, [])]:
                    self.leaks.append(f"answer, at {name}: {sent.where} {sent.field}")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value with the nearest name above it; names too, under no name."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield "", key
            yield from _leaves(below, key)
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below, name)
    else:
        yield name, str(value)


def pointers(body: Any, prefix: str = "") -> Iterator[str]:
    """The address of every value in a body, of a list its first element only."""
    inside = body.items() if isinstance(body, dict) else list(enumerate(body))[:1] if isinstance(body, list) else ()
    for step, below in inside:
        yield f"{prefix}/{step}"
        yield from pointers(below, f"{prefix}/{step}")


def with_unknown(body: Any, pointer: str, mark: str) -> Any:
    """The body with a field that nobody knows, in the object at `pointer`."""
    body = deepcopy(body)
    place = body
    for step in pointer.strip("/").split("/") if pointer else ():
        place = place[int(step) if isinstance(place, list) else step]
    place[mark] = mark
    return body


@contextmanager
def overheard() -> Iterator[io.StringIO]:
    """Whatever is logged inside, by structlog or by the standard library, with its tracebacks. What the test's own
    HTTP client says is not the registry's."""
    heard, before = io.StringIO(), structlog.get_config()
    handler = logging.StreamHandler(heard)
    handler.addFilter(lambda record: not record.name.startswith("http"))
    root = logging.getLogger()
    level = root.level
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(heard),
        cache_logger_on_first_use=False,
    )
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield heard
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        structlog.configure(**before)


def search_database(canaries: Canaries, engine: Engine) -> None:
    """Every row of every table: the trail, the answers kept for retries and all others."""
    with engine.connect() as connection:
        for table in SQLModel.metadata.sorted_tables:
            rows = [row._asdict() for row in connection.execute(select(table))]
            text = "\n".join(_text(value) for row in rows for value in row.values())
            canaries.search(f"table {table.name}", text, but_stored=True)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else json.dumps(value, default=str, ensure_ascii=False)
