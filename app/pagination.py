"""Keyset pages with sealed cursors. A cursor works only for the actor, reach, list and query that it was made for."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel
from sqlalchemy import ARRAY, ColumnElement, Integer, Row, false, func, literal, select, true, tuple_
from sqlmodel import Session

from app.access import Actor, Rows
from app.errors import Malformed
from app.models.base import utc_text
from app.security.keys import Keyring
from app.security.sealing import SealBroken, seal, unseal

Condition = ColumnElement[bool]


class CursorInvalid(Malformed):
    """The cursor was not made for this query and these grants; start again without it."""


class Listed(str):
    """A list that is written out already, as JSON."""


class Page:
    """Reads one page of a statement and says where the next begins."""

    def __init__(self, request: Request, response: Response, actor: Actor, query: BaseModel) -> None:
        self._request, self._response = request, response
        self._keyring: Keyring = request.app.state.keyring
        self._limit: int = query.limit  # type: ignore[attr-defined]
        self._cursor: str | None = query.cursor  # type: ignore[attr-defined]
        self._context = self._seal_context(actor, query)
        self._actor = actor
        self._query = query

    @cached_property
    def _begun(self) -> dict[int, str]:
        """How each row of a site begins: with its place, which the row does not hold."""
        places = self._actor.places.items()
        return {
            site_id: f'{{"study":{json.dumps(study)},"site":{json.dumps(site)},' for site_id, (study, site) in places
        }

    def _seal_context(self, actor: Actor, query: BaseModel) -> bytes:
        asked = query.model_dump(mode="json", exclude={"cursor", "limit"}, exclude_none=True)
        held = {permission: sorted(studies) for permission, studies in actor.held.items()}
        scope = [str(actor.account_id), sorted(actor.site_ids), sorted(actor.study_ids), sorted(actor.overseen), held]
        return json.dumps([scope, self._request.url.path, asked], sort_keys=True, default=str).encode()

    def read(
        self,
        session: Session,
        statement: Rows,
        *keys: Any,
        where: Iterable[Condition] = (),
        ascending: bool = False,
        site: Any = None,
    ) -> tuple[Sequence[Row[Any]], str | None]:
        """The rows of the page, and the cursor of the next one (also as a Link header). `keys` are the sort columns,
        never null, the last of them unique. `site` is the column of the rows' site, where they have an index by site
        and then `keys`: such rows are narrowed here to the sites in reach that the query asks for. Conditions that have
        an index of their own come as `where`."""
        asked = [*where]
        if self._cursor is not None:
            here, after = tuple_(*keys), tuple_(*self._after(), types=[key.type for key in keys])
            asked.append(here > after if ascending else here < after)
        sites = self._sites() if site is not None else []
        if len(sites) > 1:
            of_engine = _merged if session.get_bind().dialect.name == "postgresql" else _merged_on_sqlite
            statement = of_engine(statement, asked, keys, site, sites, partial(self._ordered, ascending=ascending))
        else:
            own = statement if site is None else statement.where(site == sites[0] if sites else false())
            statement = self._ordered(own.where(*asked), keys, ascending)
        rows = session.connection().execute(statement).all()  # plain rows, without the unit of work
        if len(rows) <= self._limit:
            return rows, None
        rows = rows[: self._limit]
        cursor = self._seal([getattr(rows[-1], key.key) for key in keys])
        self._link(cursor)
        return rows, cursor

    def _ordered(self, statement: Rows, keys: Iterable[Any], ascending: bool) -> Rows:
        return statement.order_by(*(key.asc() if ascending else key.desc() for key in keys)).limit(self._limit + 1)

    def _sites(self) -> list[int]:
        return self._actor.sites_at(getattr(self._query, "study", None), getattr(self._query, "site", None))

    def told(self, session: Session, statement: Rows, *keys: Any, **how: Any) -> "Listed":
        """The page as it is answered. The statement gives the JSON text of a row (`json_row`) first, and its site."""
        rows, after = self.read(session, statement, *keys, site=keys[-1].class_.site_id, **how)
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
        self._response.headers["Link"] = f'<{self._request.url.path}?{query}>; rel="next"'


Ordered = Callable[[Rows, Iterable[Any]], Rows]


def _merged(
    statement: Rows, where: Iterable[Condition], keys: Sequence[Any], site: Any, sites: Sequence[int], ordered: Ordered
) -> Rows:
    """A page of each site, and the page of them all: no database merges the sites' parts of an index by itself; it
    would sort all rows of all sites for each page. One statement, as long for a hundred sites as for two. Nothing but
    `site == one` names sites in it: PostgreSQL before 17 takes a list of them for as many searches. Keys come first,
    then the page's own rows, each by its key (LIMIT keeps the planner from reading all rows instead)."""
    one = func.unnest(literal(sites, ARRAY(Integer))).table_valued("id", name="one_site").render_derived()
    each = ordered(statement.with_only_columns(site, *keys).where(*where, site == one.c.id), keys).lateral()
    page = ordered(select(each).select_from(one.join(each, true())), [each.c[key.key] for key in keys]).subquery()
    own = statement.where(site == page.c[site.key], keys[-1] == page.c[keys[-1].key]).limit(1).lateral()
    return ordered(select(own).select_from(page.join(own, true())), [own.c[key.key] for key in keys])


def _merged_on_sqlite(
    statement: Rows, where: Iterable[Condition], keys: Sequence[Any], site: Any, sites: Sequence[int], ordered: Ordered
) -> Rows:
    """The same where a table cannot hang on the row beside it, but a list of keys can. It makes no row that does not
    stay on the page anyway. What is asked for is asked of the keys alone: asked of the rows, too, SQLite would find
    these by an index of that, and make a site's list of keys anew for each of them."""
    one = func.json_each(json.dumps(sites)).table_valued("value", name="one_site")
    own = ordered(statement.with_only_columns(keys[-1]).where(*where, site == one.c.value), keys).correlate(one)
    return ordered(statement.where(site == one.c.value, keys[-1].in_(own)), keys)


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
