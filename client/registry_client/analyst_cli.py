"""`registry-analyst`: fetch an extract and turn it into what one's program reads. Address and token come from
ANALYST_URL and ANALYST_TOKEN; without a token the command asks for name, password and code."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from registry_client.convert import FORMS, convert
from registry_client.credentials import Credentials, Password, Token
from registry_client.errors import RegistryFailure
from registry_client.registry import Registry

app = typer.Typer(
    help="An analyst's side of the research registry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Folder = Annotated[Path, typer.Argument(file_okay=False, help="Where the files of the extract are")]


@app.command()
def fetch(extract: Annotated[str, typer.Argument(help="Its id")], folder: Folder) -> None:
    """Download every file of an extract, once it is built, and hold each against its checksum. Run it again after a
    failure: it goes on where it stopped."""
    if not os.environ.get("ANALYST_URL", "").startswith(("https://", "http://")):
        raise typer.BadParameter("Set ANALYST_URL to an address that begins with https://")
    with Registry(os.environ["ANALYST_URL"], _credentials()) as registry:
        registry.extract(extract)
        for file in registry.download(extract, folder, _tell):
            typer.echo(file)


def _credentials() -> Credentials:
    if token := os.environ.get("ANALYST_TOKEN"):
        return Token(token)
    name = typer.prompt("Name")
    return Password(name, typer.prompt("Password", hide_input=True), typer.prompt("Code", default="") or None)


def _tell(name: str, have: int, whole: int) -> None:
    typer.echo(f"\r{name}: {have * 100 // whole} %", nl=have == whole, err=True)


@app.command("convert")
def convert_files(folder: Folder, to: Annotated[str, typer.Option(help=" or ".join(FORMS))]) -> None:
    """Write each table for SPSS (.sav), Stata (.dta) or SAS (.xpt). Needs the extra `statistics` of this package."""
    if to not in FORMS:
        raise typer.BadParameter(f"one of {', '.join(FORMS)}")
    try:
        for file in convert(folder, to):
            typer.echo(file)
    except ImportError:
        typer.echo("Install the extra `statistics`: pip install 'research-registry[statistics]'", err=True)
        raise typer.Exit(1) from None


def main() -> None:
    """Known failures end in one sentence."""
    try:
        app()
    except (RegistryFailure, OSError) as failure:
        typer.echo(str(failure), err=True)
        sys.exit(2)
