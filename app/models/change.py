"""The change feed: what has been done at one's sites, in the order of its commits, without a value."""

from typing import Annotated
from uuid import UUID

from pydantic import Field as Bounded

from app.models.base import Answer, Code, Filter, InstantShown, Limit


class ChangeRead(Answer):
    """One committed change. Read the record for what it is now."""

    study: str
    site: str
    seq: int
    """Of the site's audit chain: rising, and never again given to another change."""

    at: InstantShown
    action: str
    """`visit:recorded`, `consent:withdrawn`, ..."""

    subject_type: str
    subject_id: str
    version: int
    fields: list[str]
    """The names of what changed."""

    request_id: UUID | None


class ChangeList(Answer):
    items: list[ChangeRead]
    next: str
    """Where to go on: keep it. It is given also when nothing is new."""

    more: bool
    """There is more already; ask again at once."""


class ChangeFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    after: Annotated[str, Bounded(max_length=4000)] | None = None
    """`next` of the last answer; absent: from the beginning."""

    limit: Limit = 100
    wait: Annotated[int, Bounded(ge=0, le=30)] = 0
    """Seconds to wait for something new, where nothing is."""
