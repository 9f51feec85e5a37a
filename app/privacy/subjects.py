"""Subject ids of an extract: keyed by a random key that lives only while the extract is built."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence

from app import pid

POOL = "POOL"
"""What all small sites are called."""


def subject_ids(pids: Iterable[str], held: Mapping[str, str]) -> dict[str, str]:
    """A subject id for each pid: the one that its project holds, else a fresh one. The key is drawn here and forgotten,
    so two projects share nothing and nobody, the registry included, can compute one id from the other (45 CFR
    164.514(c))."""
    wanted = list(pids)
    new = [one for one in wanted if one not in held]
    while True:
        key = secrets.token_bytes(32)
        named = {**held, **{one: _subject(key, one) for one in new}}
        if len(set(named.values())) == len(named):
            return {one: named[one] for one in wanted}


def site_groups(sizes: Mapping[int, int], held: Mapping[int, str], smallest: int) -> Mapping[int, str | None]:
    """A random code for each site of `smallest` people or more; the others are pooled, and with them the next larger
    ones until the pool is of so many people and of two sites: who knows the list of sites knows a pool of one. A site
    that its project knows stays what it was: who was in the pool must not show when one leaves it. None for all sites
    where there are no others left to pool."""
    pooled = [site_id for site_id in sizes if held.get(site_id) == POOL]
    large = sorted(sizes.keys() - held.keys(), key=lambda site_id: (sizes[site_id], site_id))
    while large and (sizes[large[0]] < smallest or _tells(sizes, pooled, smallest)):
        pooled.append(large.pop(0))
    if _tells(sizes, pooled, smallest):
        return dict.fromkeys(sizes)
    free = sorted({f"SITE{number}" for number in range(1_000, 10_000)} - set(held.values()))
    drawn = secrets.SystemRandom().sample(free, len(large))
    fresh = {**dict.fromkeys(sizes, POOL), **dict(zip(large, drawn, strict=True))}
    return {site_id: held.get(site_id, fresh[site_id]) for site_id in sizes}


def _tells(sizes: Mapping[int, int], pooled: Sequence[int], smallest: int) -> bool:
    return bool(pooled) and (len(pooled) == 1 or sum(sizes[site_id] for site_id in pooled) < smallest)


def _subject(key: bytes, one: str) -> str:
    number = int.from_bytes(hmac.new(key, b"subject\x1f" + one.encode(), hashlib.sha256).digest()[:7], "big")
    return pid.complete("".join(pid.ALPHABET[(number >> shift) & 31] for shift in range(45, -1, -5)))
