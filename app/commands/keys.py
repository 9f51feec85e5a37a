"""`registry keys`: show and rotate the keys of the key file."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.commands import WHY, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.security.keys import Key, KeyFile

keys_app = typer.Typer(help="The key file.", no_args_is_help=True)


@keys_app.command("show")
def show_keys() -> None:
    """Show the ids and states of the keys, never a key itself."""
    from app.security.keys import read_key_file
    from app.settings import Settings

    _print(read_key_file(Settings()))


@keys_app.command()
def rotate(
    reason: WHY,
    kind: Annotated[Literal["signing", "kek"], typer.Option(help="Signing or wrapping (kek) keys.")] = "signing",
) -> None:
    """Take the next step of a rotation: add the next key or, 10 seconds later, make it active."""
    from app.models.base import now
    from app.security.rotation import rotated

    _change("keys:rotated", reason, lambda file: rotated(file, kind, now()))


@keys_app.command()
def retire(
    kid: str,
    reason: WHY,
    now: Annotated[
        bool, typer.Option("--now", help="A signing key leaked: its tokens and checkpoints are refused at once.")
    ] = False,
    kind: Annotated[Literal["signing", "kek"], typer.Option(help="Signing or wrapping (kek) keys.")] = "signing",
) -> None:
    """Remove a signing key that no valid token needs any more, or a wrapping key that no label needs."""
    from app.models.base import now as clock
    from app.security.rotation import RotationRefused, retired, without_kek
    from app.settings import Settings

    if kind == "kek":
        if now:
            raise RotationRefused(
                "--now is for signing keys: a wrapping key is needed by labels, leaked or not. Run: registry vault "
                "rewrap, and retire it without --now an hour after the rotation"
            )
        _require_unused(kid)
        _change("keys:retired", reason, lambda file: without_kek(file, kid, clock()))
        return
    lifetime = Settings().access_token_seconds
    _change("keys:retired", reason, lambda file: retired(file, kid, clock(), lifetime, now))


def _require_unused(kek_id: str) -> None:
    """Raises RotationRefused while a label needs the key, without which it could never be opened again."""
    from app.database import Database
    from app.security.rotation import RotationRefused
    from app.services.operations import vault_care
    from app.settings import Settings

    with Database(Settings()) as database:
        if vault_care.needs(database, kek_id):
            raise RotationRefused("Labels still need this key. Run: registry vault rewrap")


def _change(action: str, reason: str, change: "Callable[[KeyFile], KeyFile]") -> None:
    """Change the key file, with an entry in the audit trail. If the file cannot be replaced, there is no entry."""
    from app import audit
    from app.models.account import ReasonGiven
    from app.security.keys import read_key_file
    from app.security.rotation import RotationRefused, replace_key_file
    from app.services.trail.registry_chain import remember
    from app.web.merging import checked

    why = checked(ReasonGiven, {"reason": reason}).reason
    with writing() as (session, settings):
        before = read_key_file(settings)
        after = change(before)

        def replacement(file: "KeyFile") -> "KeyFile":
            if file != before:
                raise RotationRefused(
                    "Somebody else changed the key file meanwhile. Check it (registry keys show), then run this again."
                )
            return after

        remember(session, None, audit.Event(action, "key_file", "signing and kek", 1, _kids(before, after), why))
        replace_key_file(settings, replacement)
    _print(after)


def _kids(before: "KeyFile", after: "KeyFile") -> "list[dict[str, object]]":
    """The changes of the lists of keys, for the audit trail: only ids, which are public, the active one first."""
    lists = [(name, _ids(getattr(before, name)), _ids(getattr(after, name))) for name in ("kek", "signing")]
    return [{"field": name, "old": old, "new": new} for name, old, new in lists if old != new]


def _ids(keys: "Sequence[Key]") -> list[str]:
    return [key.kid for key in keys]


def _print(file: "KeyFile") -> None:
    for key in file.signing:
        _line("signing", key, key is file.signing[0])
    for wrapping in file.kek:
        _line("kek", wrapping, wrapping is file.kek[0])
    for past in file.past:
        _line("past", past, False)


def _line(kind: str, key: "Key", active: bool) -> None:
    state = "active" if active else "next" if key.made_at and not key.retired_at else "retired"
    since = f"  since {key.retired_at:%Y-%m-%dT%H:%M:%SZ}" if key.retired_at else ""
    typer.echo(f"{kind}  {key.kid}  {state}{since}")
