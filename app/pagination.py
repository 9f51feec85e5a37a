"""Keyset pages with sealed cursors. A cursor works only for the actor, reach, list and query that it was made for."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel
from sqlalchemy import Row
from sqlmodel import Session

from app.access import Actor, Rows
from app.errors import Malformed
from app.keyset import behind, in_order
from app.models.base import utc_text
from app.security.keys import Keyring
from app.security.sealing import SealBroken, seal, unseal
from app.site_lists import Form, Narrowing, page_of


class CursorInvalid(Malformed):
    """The cursor belongs to another query, or your grants have changed; start again without it."""


class Listed(str):
    """A list that is written out already, as JSON."""


class Page:
    """Reads one page of a statement and says where the next begins."""

    def __init__(self, request: Request, response: Response, actor: Actor, query: BaseModel) -> None:
        self._request, self._response = request, response
        self._keyring: Keyring = request.app.state.keyring
        self._limit: int = query.limit  # type: ignore[attr-defined]
        self._cursor: str | None = query.cursor  # type: ignore[attr-defined]
        self._actor = actor
        self._query = query

    @cached_property
    def _begun(self) -> dict[int, str]:
        """How each row of a site begins: with its place, which the row does not hold."""
        places = self._actor.places.items()
        return {
            site_id: f'{{"study":{json.dumps(study)},"site":{json.dumps(site)},' for site_id, (study, site) in places
        }

    @cached_property
    def _context(self) -> bytes:
        """What a cursor is made for. A list that ends with its first page has none."""
        actor = self._actor
        asked = self._query.model_dump(mode="json", exclude={"cursor", "limit"}, exclude_none=True)
        held = {permission: sorted(studies) for permission, studies in actor.held.items()}
        scope = [str(actor.account_id), sorted(actor.site_ids), sorted(actor.study_ids), sorted(actor.overseen), held]
        return json.dumps([scope, self._request.scope["path"], asked], sort_keys=True, default=str).encode()

    def read(
        self, session: Session, statement: Rows, *keys: Any, ascending: bool = False
    ) -> tuple[Sequence[Row[Any]], str | None]:
        """The rows of the page, in the order of `keys`, and the cursor of the next one (also as a Link header)."""
        if self._cursor is not None:
            statement = statement.where(behind(keys, self._after(), ascending))
        ordered = statement.order_by(*in_order(keys, ascending)).limit(self._limit + 1)
        return self._page(session, ordered, keys, {})

    def of_sites(
        self, session: Session, rows: Rows, *keys: Any, by: Narrowing, ascending: bool = False
    ) -> tuple[Sequence[Row[Any]], str | None]:
        """The same of sites' rows that have an index by site and then `keys`, at the sites in reach that the query asks
        for. The statement of `rows` is one that was made once. Raises NotFound."""
        later = self._cursor is not None
        after = {f"after_{place}": value for place, value in enumerate(self._after() if later else ())}
        sites = self._sites()
        if not sites:
            return [], None
        form = Form(rows, keys, keys[-1].class_.site_id, by.where, ascending, later, self._limit + 1)
        statement = page_of(form, session.get_bind().dialect.name if len(sites) > 1 else None)
        asked = {"sites": sites} if len(sites) > 1 else {"site": sites[0]}
        return self._page(session, statement, keys, {**by.given, **after, **asked})

    def _page(
        self, session: Session, statement: Rows, keys: Sequence[Any], given: Mapping[str, Any]
    ) -> tuple[Sequence[Row[Any]], str | None]:
        rows = session.connection().execute(statement, given).all()  # plain rows, without the unit of work
        if len(rows) <= self._limit:
            return rows, None
        rows = rows[: self._limit]
        cursor = self._seal([getattr(rows[-1], key.key) for key in keys])
        self._link(cursor)
        return rows, cursor

    def _sites(self) -> list[int]:
        return self._actor.sites_at(getattr(self._query, "study", None), getattr(self._query, "site", None))

    def as_json(self, session: Session, listed: Rows, *keys: Any, by: Narrowing, ascending: bool = False) -> "Listed":
        """The page as it is answered. `listed` gives the JSON text of a row (`json_row`) first, and its site."""
        rows, after = self.of_sites(session, listed, *keys, by=by, ascending=ascending)
        items = ",".join(self._begun[row.site_id] + row[0][1:] for row in rows)
        return Listed(f'{{"items":[{items}],"next":{json.dumps(after)}}}')

    def _seal(self, values: list[Any]) -> str:
        plain = json.dumps([_written(value) for value in values])
        return seal(self._keyring.derived("cursor"), plain.encode(), self._context)

    def _after(self) -> list[Any]:
        assert self._cursor is not None
        try:
            texts = json.loads(unseal(self._keyring.derived("cursor"), self._cursor, self._context))
        except SealBroken:
            raise CursorInvalid from None
        return [_READERS[kind](text) for kind, text in texts]

    def _link(self, cursor: str) -> None:
        parameters = [(name, value) for name, value in self._request.query_params.multi_items() if name != "cursor"]
        query = urlencode([*parameters, ("cursor", cursor)])
        self._response.headers["Link"] = f'<{self._request.scope["path"]}?{query}>; rel="next"'


_READERS: Mapping[str, Callable[[str], Any]] = {
    "datetime": datetime.fromisoformat,
    "UUID": UUID,
    "date": date.fromisoformat,
    "int": int,
    "str": str,
}
"""The Python types of sort columns, and how a value is read back."""


def _written(value: Any) -> tuple[str, str]:
    return type(value).__name__, utc_text(value) if isinstance(value, datetime) else str(value)
