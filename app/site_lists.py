"""Lists of sites' rows, the most frequent reads: the statement of each form of a list is built once, and requests
differ in its parameters only.

Building the statement (and SQLAlchemy's cache key) for each page took a tenth of the time of a page of one site, and
two fifths of one of several sites (docs/decisions/0032).
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
"""Statements in the cache, 0.1 MB each. A worker normally uses a few dozen. A client that asks for pages of ever new
lengths adds new ones and evicts those of others."""


class Narrowing(NamedTuple):
    """The conditions of a list, applied where its keys are looked up. They are built once, like the statements that
    contain them; the values of a request are parameters."""

    where: tuple[Condition, ...]
    given: Mapping[str, Any]


Filters = Mapping[str, Condition | Mapping[Any, Condition]]
"""For each field of a query its condition, with a parameter of the field's name; or one condition for each value."""


def narrowing(filters: Filters, query: BaseModel) -> Narrowing:
    """The conditions of this query. A field that is None adds none."""
    given = {name: value for name in filters if (value := getattr(query, name)) is not None}
    return Narrowing(tuple(_condition(filters[name], value) for name, value in given.items()), given)


def _condition(of: Condition | Mapping[Any, Condition], value: Any) -> Condition:
    return of[value] if isinstance(of, Mapping) else of


class Form(NamedTuple):
    """Everything in which the statements of two lists differ; the key of the cache. Its expressions are module
    constants, compared by identity."""

    rows: Rows
    keys: tuple[Any, ...]
    """The sort columns, never null, the last of them unique."""

    site: Any
    where: tuple[Condition, ...]
    ascending: bool
    later: bool
    """Whether this is not the first page: the parameters after_0, after_1 ... are the keys after which it begins."""

    most: int
    """Rows of the page. A literal in the statement: for a parameter PostgreSQL's planner assumes a tenth of the table,
    and would plan each page again for its value."""

    def ordered(self, statement: Rows, keys: Iterable[Any]) -> Rows:
        return statement.order_by(*in_order(keys, self.ascending)).limit(literal_column(str(self.most)))

    def conditions(self) -> list[Condition]:
        if not self.later:
            return [*self.where]
        place = [bindparam(f"after_{number}", type_=key.type) for number, key in enumerate(self.keys)]
        return [*self.where, behind(self.keys, place, self.ascending)]


@lru_cache(FORMS)
def page_of(form: Form, sites_on: str | None) -> Rows:
    """The statement of a page. `sites_on` None: of one site, the parameter `site`. Otherwise of several, the parameter
    `sites`, for the database of this name."""
    if sites_on is None:
        return _of_one_site(form)
    return _of_sites_on_postgresql(form) if sites_on == "postgresql" else _of_sites_on_sqlite(form)


def _of_one_site(form: Form) -> Rows:
    own = form.rows.where(form.site == bindparam("site"), *form.conditions())
    return form.ordered(own, form.keys)


def _of_sites_on_postgresql(form: Form) -> Rows:
    """A page of each site, merged into one page. No database merges the index ranges of several sites by itself; it
    would sort all rows of all sites for each page. The statement has the same length for two and for a hundred sites,
    and compares with one site at a time, as PostgreSQL before 17 starts an index scan for each element of a list. It
    finds the keys first, and then the rows of the page by their keys (LIMIT 1 keeps the planner from reading all rows
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
    """The same for SQLite, which has no LATERAL but can use a correlated list of keys for each site. The conditions
    apply to the list of keys only: if they applied to the rows too, SQLite would find the rows by another index, and
    build the list again for each row."""
    one = func.json_each(_SITES).table_valued("value", name="one_site")
    keys = form.rows.with_only_columns(form.keys[-1]).where(*form.conditions(), form.site == one.c.value)
    own = form.ordered(keys, form.keys).correlate(one)
    return form.ordered(form.rows.where(form.site == one.c.value, form.keys[-1].in_(own)), form.keys)


_SITES = bindparam("sites", type_=Several(Integer()))
