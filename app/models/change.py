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
    """The entry's number in the site's audit chain. It rises, and no two changes have the same."""

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
    """Send it as `after` next time. Keep it also when `items` is empty."""

    more: bool
    """True: more changes are there already; ask again at once."""


class ChangeFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    after: Annotated[str, Bounded(max_length=4000)] | None = None
    """`next` of the last answer; absent: from the beginning."""

    limit: Limit = 100
    wait: Annotated[int, Bounded(ge=0, le=30)] = 0
    """Seconds to wait for something new, where nothing is."""
