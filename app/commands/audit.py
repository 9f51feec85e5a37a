"""`registry audit`: verify the trail, export it, and sign the last entries of its chains (a checkpoint)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sqlmodel import Session

    from app.audit import Head, Verdict

app = typer.Typer(help="The audit trail.", no_args_is_help=True)
KIND = "registry-checkpoint+jwt"
REGISTRY = "the registry"


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Option(help="Check this export instead of the database.", exists=True, dir_okay=False)
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint to compare with.", exists=True, dir_okay=False)
    ] = None,
    jwks: Annotated[
        Path | None,
        typer.Option(
            help="Public keys (JWKS) that verify the checkpoint; default: the key file.", exists=True, dir_okay=False
        ),
    ] = None,
    chain: Annotated[int | None, typer.Option(help="With --file: only this chain (its number, `site_id`).")] = None,
) -> None:
    """Check every chain from its first entry, and name the first bad entry of each. Exit 1 if there is one."""
    from app import audit

    if chain is not None and file is None:
        raise typer.BadParameter("only with --file", param_hint="--chain")
    checkpoint_heads = _heads_of(checkpoint, jwks) if checkpoint else {}
    if file is not None:
        raise typer.Exit(_report(_verify_export(file, checkpoint_heads, chain), {}))
    with _every_chain() as session:
        raise typer.Exit(_report(audit.verify(session, checkpoint_heads), _names(session)))


def _report(verdicts: Iterator[Verdict], names: Mapping[int, str]) -> int:
    broken = 0
    for verdict in verdicts:
        broken = 1 if verdict.fault else broken
        name = names.get(verdict.site_id, f"chain {verdict.site_id}")
        typer.echo(f"chain of {name}: {verdict.entries} entries, {verdict.fault or 'whole'}")
    return broken


def _verify_export(file: Path, checkpoint_heads: Mapping[int, Head], only: int | None) -> Iterator[Verdict]:
    """Verdicts on an export, or on one chain of it. A chain of the checkpoint that the file lacks was removed."""
    from app.audit import Verdict, walk

    seen: set[int] = set()
    with file.open(encoding="utf-8") as lines:
        for site_id, chain in groupby(_entries(lines), key=lambda entry: int(entry["site_id"])):
            if only not in (None, site_id):
                continue
            verdict = walk(site_id, chain, checkpoint_heads.get(site_id))
            yield (
                verdict
                if site_id not in seen
                else Verdict(site_id, verdict.entries, "its entries do not follow each other in the file")
            )
            seen.add(site_id)
    missing = {site_id for site_id in checkpoint_heads if only in (None, site_id)} - seen
    yield from (walk(site_id, [], checkpoint_heads[site_id]) for site_id in sorted(missing))
    if not seen | missing:
        typer.echo("the file holds no entry" if only is None else f"the file holds no entry of chain {only}", err=True)
        raise typer.Exit(2)


def _entries(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The entries of an export. A line that is not one ends the command, as the rest cannot be verified."""
    from app.audit import COLUMNS

    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or entry.keys() != COLUMNS:
            typer.echo(f"line {number} of the file is not an entry of an audit trail", err=True)
            raise typer.Exit(2)
        yield entry


@app.command()
def export(
    chain: Annotated[str | None, typer.Option(help="STUDY/SITE, or 0 for the registry's own. Default: all.")] = None,
) -> None:
    """Print the entries as JSON, one a line, for `verify --file` or a verifier of your own."""
    from app import audit
    from app.models.base import canonical_json

    with _every_chain() as session:
        chains = _names(session)
        chosen = [site_id for site_id, name in chains.items() if chain in (None, name, str(site_id))]
        if not chosen:
            raise typer.BadParameter("there is no such chain", param_hint="--chain")
        for site_id in sorted(chosen):
            for entry in audit.entries(session, site_id):
                sys.stdout.write(canonical_json(entry) + "\n")


@app.command()
def checkpoint() -> None:
    """Print the number and hash of every chain's last entry, signed. Keep it where no administrator can change it."""
    from app import audit
    from app.models.base import now, utc_text
    from app.security import statements
    from app.security.keys import load_keyring
    from app.settings import Settings

    settings = Settings()
    keyring = load_keyring(settings)
    with _every_chain() as session:
        standing = audit.heads(session)
    heads = [{"chain": site_id, **head._asdict()} for site_id, head in sorted(standing.items())]
    body = {"iss": settings.issuer, "at": utc_text(now()), "heads": heads}
    typer.echo(statements.sign(keyring, KIND, body))


def _heads_of(checkpoint: Path, jwks: Path | None) -> dict[int, Head]:
    """The heads of a checkpoint whose signature holds."""
    from app.audit import Head
    from app.security import statements
    from app.security.keys import read_key_file
    from app.settings import Settings

    keys = (
        {key["kid"]: key for key in json.loads(jwks.read_text())["keys"]}
        if jwks
        else statements.public_keys(read_key_file(Settings()))
    )
    try:
        body = statements.opened(keys, KIND, checkpoint.read_text())
    except statements.StatementRefused:
        typer.echo("the file is not a checkpoint, or was changed", err=True)
        raise typer.Exit(1) from None
    except statements.SignerUnknown:
        typer.echo(
            "the checkpoint was signed with a key that is not known here: another deployment's, or one that leaked",
            err=True,
        )
        raise typer.Exit(1) from None
    return {head["chain"]: Head(head["seq"], head["hash"]) for head in body["heads"]}


@contextmanager
def _every_chain() -> Iterator[Session]:
    """A session that reads every chain at one moment. For the server's role the sites have to be named, as it sees the
    chains of named sites only."""
    from app.database import Database, one_moment, within
    from app.services.studies import every_chain
    from app.settings import Settings

    with (
        Database(Settings()) as database,
        database.read() as outer,
        one_moment(outer) as session,
        within(session, every_chain(session)),
    ):
        yield session


def _names(session: Session) -> dict[int, str]:
    """STUDY/SITE of every chain."""
    from app.models.audit import REGISTRY_CHAIN
    from app.services.studies import places

    return {REGISTRY_CHAIN: REGISTRY, **{site_id: "/".join(place) for site_id, place in places(session).items()}}
