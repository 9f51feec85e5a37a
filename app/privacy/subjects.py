"""Subject ids and site codes of an extract, made at random when it is approved."""

import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence

from app import pid

POOL = "POOL"
"""The code that all small sites share."""


def subject_ids(pids: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """A subject id for each pid: the one that the project knows already, else a new one. New ones are derived from a
    random key that is then forgotten, so that ids of two projects cannot be linked, and nobody, the registry included,
    can compute a pid from an id or an id from a pid (45 CFR 164.514(c))."""
    wanted = list(pids)
    new = [one for one in wanted if one not in known]
    while True:
        key = secrets.token_bytes(32)
        named = {**known, **{one: _subject(key, one) for one in new}}
        if len(set(named.values())) == len(named):
            return {one: named[one] for one in wanted}


def site_groups(sizes: Mapping[int, int], known: Mapping[int, str], smallest: int) -> Mapping[int, str | None]:
    """A random code for each site of `smallest` people or more. Smaller sites are pooled, and with them the next larger
    ones until the pool has `smallest` people and two sites: a pool of one site is recognised by the list of sites. A
    site that the project knows (`known`) keeps its code or stays pooled, since a site that left the pool would reveal
    which people it had. None for all sites if there are not enough others for the pool."""
    pooled = [site_id for site_id in sizes if known.get(site_id) == POOL]
    large = sorted(sizes.keys() - known.keys(), key=lambda site_id: (sizes[site_id], site_id))
    while large and (sizes[large[0]] < smallest or _too_small(sizes, pooled, smallest)):
        pooled.append(large.pop(0))
    if _too_small(sizes, pooled, smallest):
        return dict.fromkeys(sizes)
    free = sorted({f"SITE{number}" for number in range(1_000, 10_000)} - set(known.values()))
    drawn = secrets.SystemRandom().sample(free, len(large))
    fresh = {**dict.fromkeys(sizes, POOL), **dict(zip(large, drawn, strict=True))}
    return {site_id: known.get(site_id, fresh[site_id]) for site_id in sizes}


def _too_small(sizes: Mapping[int, int], pooled: Sequence[int], smallest: int) -> bool:
    """Whether there is a pool, and it has one site or too few people."""
    return bool(pooled) and (len(pooled) == 1 or sum(sizes[site_id] for site_id in pooled) < smallest)


def _subject(key: bytes, one: str) -> str:
    number = int.from_bytes(hmac.digest(key, b"subject\x1f" + one.encode(), "sha256")[:7], "big")
    return pid.complete("".join(pid.ALPHABET[(number >> shift) & 31] for shift in range(45, -1, -5)))
