"""ETags and If-Match (RFC 9110, section 13): nobody overwrites what they have not seen."""

from collections.abc import Iterable
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request

from app.errors import IfMatchMissing, VersionStale
from app.security.keys import Keyring


def etag(keyring: Keyring, subject: object, version: int) -> str:
    """The ETag of a record: keyed, so that it shows neither how often a record changed nor whether two are equal."""
    return f'"{keyring.digest("etag", str(subject).encode(), str(version).encode())[:32]}"'


class Seen(NamedTuple):
    """The ETag that the client sends as seen."""

    etag: str
    keyring: Keyring

    def require_current(self, subject: object, version: int, differing: Iterable[str]) -> None:
        """Raises VersionStale (412), with the current ETag and the names of the fields where the record now differs
        from what the client wants to write."""
        current = etag(self.keyring, subject, version)
        if self.etag != current:
            raise VersionStale(headers={"ETag": current}, differing_fields=sorted(differing))


async def _if_match(
    request: Request, header: Annotated[str | None, Header(alias="If-Match", max_length=100)] = None
) -> Seen:
    if header is None:
        raise IfMatchMissing
    return Seen(header.strip(), request.app.state.keyring)


IfMatch = Annotated[Seen, Depends(_if_match)]
"""428 without the header."""
