"""Rotation of keys: next, active, retired. Every worker knows a key before any worker uses it.

A new key joins its list as `next`, where it only verifies or unwraps. Once every worker has read the file again, a
second step makes it active. The old key is retired: it still verifies what it signed, and unwraps what it wrapped.
"""

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from app.errors import CannotGoOn
from app.security.keys import (
    RELOAD_SECONDS,
    Key,
    KeyFile,
    KeysUnusable,
    new_signing_key,
    new_wrapping_key,
    past_key,
    read_key_file,
)
from app.settings import Settings

Kind = Literal["signing", "kek"]
K = TypeVar("K", bound=Key)
SPREAD_SECONDS = 5 * RELOAD_SECONDS
"""How old a next key must be before it is used, so that the slowest worker knows it."""

WRAPPING_ENDS = timedelta(hours=1)
"""How long after a key was retired a request that wrapped with it may still commit: longer than any request takes."""


class RotationRefused(CannotGoOn):
    """The step cannot be taken now; the message says why and when."""


def rotated(file: KeyFile, kind: Kind, at: datetime) -> KeyFile:
    """The next step: a next key, or the next key made active. Raises RotationRefused while it is too young."""
    if kind == "kek":
        return file.model_copy(update={"kek": _step(file.kek, new_wrapping_key, at)})
    return file.model_copy(update={"signing": _step(file.signing, new_signing_key, at)})


def next_of(keys: Sequence[K]) -> K | None:
    """The key that the next step makes active, if it is there already."""
    return next((key for key in keys[1:] if key.retired_at is None and key.made_at is not None), None)


def _step(keys: list[K], new: Callable[[datetime], K], at: datetime) -> list[K]:
    active, others = keys[0], keys[1:]
    next_key = next_of(keys)
    if next_key is None or next_key.made_at is None:
        return [*keys, new(at)]
    wait = (next_key.made_at + timedelta(seconds=SPREAD_SECONDS) - at).total_seconds()
    if wait > 0:
        raise RotationRefused(f"Not every worker knows the next key yet. Run this again in {int(wait) + 1} seconds.")
    retired = active.model_copy(update={"retired_at": at})
    return [next_key, retired, *(key for key in others if key is not next_key)]


def without_kek(file: KeyFile, kid: str, at: datetime) -> KeyFile:
    """The file without a wrapping key that no label needs any more, which the caller has to check. Until WRAPPING_ENDS
    after its retirement that cannot be known, and the key is kept. Raises RotationRefused."""
    key = next((key for key in file.kek if key.kid == kid), None)
    if key is None:
        raise RotationRefused("There is no wrapping key with this id. `registry keys show` lists them.")
    if key.retired_at is None:
        raise RotationRefused("This key is active or next. Run `registry keys rotate --kind kek` until it is retired.")
    until = key.retired_at + timedelta(seconds=SPREAD_SECONDS) + WRAPPING_ENDS
    if at < until:
        raise RotationRefused(
            f"An enrolment under way may still need this key. Retire it after {until:%Y-%m-%d %H:%M:%S} UTC."
        )
    return file.model_copy(update={"kek": [one for one in file.kek if one is not key]})


def retired(file: KeyFile, kid: str, at: datetime, token_seconds: int, now: bool = False) -> KeyFile:
    """The file without a signing key that is no longer needed; its public half stays, for the checkpoints that it
    signed. `now` is for a key that leaked: its valid tokens are refused too, and its public half does not stay.

    Raises RotationRefused for an unknown key, the active one, and one that still verifies valid tokens.
    """
    key = next((key for key in file.signing if key.kid == kid), None)
    if key is None:
        raise RotationRefused("There is no signing key with this id. `registry keys show` lists them.")
    if key is file.signing[0]:
        raise RotationRefused("This key is active. Run `registry keys rotate` until another one is.")
    if key.retired_at is not None and not now:
        until = key.retired_at + timedelta(seconds=token_seconds + SPREAD_SECONDS)
        if at < until:
            raise RotationRefused(
                f"Tokens of this key may be valid until {until:%Y-%m-%d %H:%M:%S} UTC. Retire it then, or with --now."
            )
    past = file.past if now or key.retired_at is None else [*file.past, past_key(key)]
    return file.model_copy(update={"signing": [one for one in file.signing if one is not key], "past": past})


def replace_key_file(settings: Settings, change: Callable[[KeyFile], KeyFile]) -> KeyFile:
    """Replace the key file by `change` of it, at once: readers find the old file or the new one. Gives the new one.

    The new file is written beside the old one under a fixed name, so that of two changes at once one fails. Raises
    KeysUnusable when it cannot be written, and whatever `change` raises.
    """
    path = settings.key_file
    beside = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeysUnusable(f"Another change of the keys is running. If none is, remove {beside}") from None
    except OSError as error:
        raise KeysUnusable(f"The folder of {path} cannot be written ({error.strerror}).") from None
    try:
        with os.fdopen(descriptor, "w") as handle:
            file = change(read_key_file(settings))
            owner = path.stat()
            os.fchown(handle.fileno(), owner.st_uid, owner.st_gid)
            handle.write(file.model_dump_json(indent=2))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise KeysUnusable(f"Key file {path} cannot be written ({error.strerror}).") from None
    finally:
        beside.unlink(missing_ok=True)
    _persist(path.parent)
    return file


def _persist(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
