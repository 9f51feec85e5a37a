"""Lists of sites' rows, the hottest reads: each form of a list has its statement made once, and requests differ in its
parameters only.

Making the statement (and SQLAlchemy's cache key) for each page took a tenth of the time of a page of one site, and two
fifths of one of several sites (docs/decisions/0032).
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Integer, bindparam, func, literal_column, select, true

from app.access import Rows
from app.keyset import behind, in_order
from app.models.among import Several

Condition = ColumnElement[bool]
FORMS = 256
"""Statements that are kept, 0.1 MB each. A worker is asked for some dozens again and again. A client that asks for
pages of ever new lengths makes new ones and pushes out those of others."""


class Narrowing(NamedTuple):
    """What a list is narrowed by. The conditions look at the keys of the rows alone. They are made once, like the
    statements that hold them; their values come as parameters."""

    where: tuple[Condition, ...]
    given: Mapping[str, Any]


Filters = Mapping[str, Condition | Mapping[Any, Condition]]
"""What each field of a query asks for, with a parameter of its name; or a condition for each of its values."""


def narrowing(filters: Filters, query: BaseModel) -> Narrowing:
    """What this query asks for; a field that is None asks for nothing."""
    given = {name: value for name in filters if (value := getattr(query, name)) is not None}
    return Narrowing(tuple(_condition(filters[name], value) for name, value in given.items()), given)


def _condition(of: Condition | Mapping[Any, Condition], value: Any) -> Condition:
    return of[value] if isinstance(of, Mapping) else of


class Form(NamedTuple):
    """What tells the statement of one list from that of another. Its expressions are the objects that were made once,
    compared by identity."""

    rows: Rows
    keys: tuple[Any, ...]
    """The sort columns, never null, the last of them unique."""

    site: Any
    where: tuple[Condition, ...]
    ascending: bool
    later: bool
    """A page that is not the first: the parameters after_0, after_1 ... say after which keys it begins."""

    most: int
    """Rows. It stands in the statement: of a parameter PostgreSQL's planner would guess a tenth of the table, and plan
    each page anew for its value."""

    def ordered(self, statement: Rows, keys: Iterable[Any]) -> Rows:
        return statement.order_by(*in_order(keys, self.ascending)).limit(literal_column(str(self.most)))

    def conditions(self) -> list[Condition]:
        if not self.later:
            return [*self.where]
        place = [bindparam(f"after_{number}", type_=key.type) for number, key in enumerate(self.keys)]
        return [*self.where, behind(self.keys, place, self.ascending)]


@lru_cache(FORMS)
def page_of(form: Form, sites_on: str | None) -> Rows:
    """The statement of a page: of one site, which is the parameter `site`, or of several, which are `sites`, on the
    engine of this name."""
    if sites_on is None:
        return _of_one_site(form)
    return _of_sites_on_postgresql(form) if sites_on == "postgresql" else _of_sites_on_sqlite(form)


def _of_one_site(form: Form) -> Rows:
    own = form.rows.where(form.site == bindparam("site"), *form.conditions())
    return form.ordered(own, form.keys)


def _of_sites_on_postgresql(form: Form) -> Rows:
    """A page of each site, and from these the page of all. No database merges the sites' parts of an index by itself;
    it would sort all rows of all sites for each page. The statement is equally long for two and for a hundred sites,
    and names sites only by `site == one`, as PostgreSQL before 17 counts each element of a list as a search. It finds
    the keys first, and then the rows of the page by their keys (LIMIT 1 keeps the planner from reading all rows
    instead)."""
    site, keys, unique = form.site, form.keys, form.keys[-1]
    one = func.unnest(_SITES).table_valued("id", name="one_site").render_derived()
    of_site = form.rows.with_only_columns(site, *keys).where(*form.conditions(), site == one.c.id)
    each = form.ordered(of_site, keys).lateral()
    merged = form.ordered(select(each).select_from(one.join(each, true())), [each.c[key.key] for key in keys])
    page = merged.subquery()
    whole = form.rows.where(site == page.c[site.key], unique == page.c[unique.key]).limit(literal_column("1"))
    own = whole.lateral()
    return form.ordered(select(own).select_from(page.join(own, true())), [own.c[key.key] for key in keys])


def _of_sites_on_sqlite(form: Form) -> Rows:
    """The same for SQLite, which has no LATERAL but can look a list of keys up for each site. The conditions are asked
    of the keys alone: asked of the rows too, SQLite would find the rows by another index, and make the list of keys
    anew for each of them."""
    one = func.json_each(_SITES).table_valued("value", name="one_site")
    keys = form.rows.with_only_columns(form.keys[-1]).where(*form.conditions(), form.site == one.c.value)
    own = form.ordered(keys, form.keys).correlate(one)
    return form.ordered(form.rows.where(form.site == one.c.value, form.keys[-1].in_(own)), form.keys)


_SITES = bindparam("sites", type_=Several(Integer()))
