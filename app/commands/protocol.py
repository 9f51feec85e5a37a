"""`registry protocol`: check a protocol file before it is posted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Protocol files.", no_args_is_help=True)


@app.callback()
def protocol() -> None:
    """Keeps the name `check`: typer drops the name of an only command."""


@app.command()
def check(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TOML, or JSON as posted.")]) -> None:
    """Check a protocol file, and name all its faults with place and rule. Exit 1 if there are any."""
    from app.protocol.base import ProtocolInvalid
    from app.protocol.schedule import load_protocol

    try:
        definition = load_protocol(file.read_text("utf-8"), "json" if file.suffix == ".json" else "toml")
    except UnicodeDecodeError:
        typer.echo(f"{file}: not UTF-8", err=True)
        raise typer.Exit(1) from None
    except ProtocolInvalid as refused:
        for fault in refused.faults:
            typer.echo(f"{file}: {fault.path or '/'}: {fault.message} ({fault.code})", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"{definition.key} is valid: {len(definition.visits)} visits, "
        f"{len(definition.eligibility)} eligibility criteria, {len(definition.safety_rules)} safety rules."
    )
