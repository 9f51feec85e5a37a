"""The lines of an upload are the same in whatever pieces the network brings them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.web.lines import NDJSON, Line, batches

LONGEST = 20
WORDS = st.sampled_from([b"", b" ", b"x", b"y" * LONGEST, b"z" * (LONGEST + 1), b"z" * (3 * LONGEST)])


class Sent:
    """A request whose body comes in these pieces."""

    headers = {"content-type": NDJSON}

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def read(pieces: Sequence[bytes]) -> list[Line]:
    async def all_of() -> list[Line]:
        sent: Any = Sent(pieces)
        return [line async for batch in batches(sent, 2, LONGEST, 5) for line in batch]

    return asyncio.run(all_of())


@given(st.lists(WORDS, max_size=6), st.lists(st.integers(0, 200), max_size=30))
def test_pieces_make_no_difference_to_lines(words: list[bytes], cuts: list[int]) -> None:
    body = b"\n".join(words)
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    expected = [
        Line(number, word if len(word) <= LONGEST else None)
        for number, word in enumerate(words, 1)
        if word.strip()  # empty ones are counted and left out
    ]
    assert read([body[start:end] for start, end in pairwise(places)]) == expected
