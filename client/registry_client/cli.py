"""`registry-site`: what a site does from a command line. Address and credentials come from SITE_APP_URL,
SITE_APP_CLIENT_ID and SITE_APP_CLIENT_SECRET."""

import csv
import json
import os
import sqlite3
import sys
import time
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid5

import typer

from registry_client.credentials import ClientCredentials
from registry_client.errors import NotSignedIn, RegistryFailure
from registry_client.outbox import Outbox
from registry_client.registry import Registry
from registry_client.rows import Row, Upload

app = typer.Typer(
    help="A site's side of the research registry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
NOUNS = ("participants", "visits", "outcomes", "adverse-events")
NUMBERS = frozenset({"age_at_consent", "minutes", "occurrence"})
REFUSED_SECONDS = 3_600
HOLDING_NUMBERS = frozenset({"items", "totals"})
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, a record a row")]


def _registry() -> Registry:
    try:
        url, name, secret = (os.environ[f"SITE_APP_{one}"] for one in ("URL", "CLIENT_ID", "CLIENT_SECRET"))
    except KeyError as missing:
        raise typer.BadParameter(f"Set {missing.args[0]}") from None
    if not url.startswith(("https://", "http://")):
        raise typer.BadParameter("SITE_APP_URL has to begin with https:// (or http:// on this machine)")
    return Registry(url, ClientCredentials(name, secret))


@app.command()
def enrol(record: Annotated[str, typer.Argument(help="The body of POST /v1/participants as JSON; - reads it")]) -> None:
    """Enrol one person; prints the pid."""
    with _registry() as registry:
        text = sys.stdin.read() if record == "-" else record
        try:
            body = json.loads(text)
        except ValueError:
            raise typer.BadParameter("the record is not JSON") from None
        typer.echo(registry.post("/v1/participants", body).body["pid"])


@app.command()
def upload(
    noun: str,
    file: File,
    dry_run: Annotated[bool, typer.Option(help="Check only")] = False,
    new: Annotated[list[int] | None, typer.Option(help="A row of an event that is no correction of another")] = None,
) -> None:
    """Post every row of a CSV. Run it again after a failure, or when the file has grown: a row that is stored is not
    stored twice.

    A row that was corrected since is not stored beside what it corrects: the record is told, where it differs, and the
    `amend` that corrects it. Of adverse events that is asked of the row most like an event of the participant that
    is in no row: correct that event, or say by --new that the row is another one.

    A column is a field of the record; `consent.version` is a field within one. An empty cell is left out; true, false,
    lists and objects are read as JSON, and numbers in the columns that hold numbers.
    """
    if noun not in NOUNS:
        raise typer.BadParameter(f"one of {', '.join(NOUNS)}")
    columns, rows = _read(noun, file)
    failed = 0
    with _registry() as registry, _bar(len(rows), noun) as bar:
        sending = Upload(registry, noun, columns, new=frozenset(new or ()), dry_run=dry_run)
        for row, fault in sending.send(rows):
            bar.update(1)
            if fault is not None:
                failed += 1
                typer.echo(f"\nrow {row.number}: {fault}")
    typer.echo(f"{len(rows) - failed} of {len(rows)} rows are {'valid' if dry_run else 'stored'}.")
    raise typer.Exit(1 if failed else 0)


@app.command()
def amend(
    address: Annotated[str, typer.Argument(help="Of the record, such as /v1/visits/0d8c...")],
    etag: Annotated[str, typer.Argument(help="Of the version that is corrected")],
    reason: str,
    changes: Annotated[list[str], typer.Argument(help="column=value as in a file; column= clears")],
) -> None:
    """Correct a record as it was seen. Refused when somebody else has changed it since."""
    record: dict[str, Any] = {}
    for change in changes:
        name, equals, cell = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"{change} is no column=value")
        _put(record, name.split("."), cell)
    with _registry() as registry:
        registry.amend(address, etag, reason, **record)
    typer.echo("Corrected.")


@app.command()
def void(
    address: Annotated[str, typer.Argument(help="Of the record, such as /v1/visits/0d8c...")],
    etag: Annotated[str, typer.Argument(help="Of the version that is voided, or of what it is a part of")],
    reason: str,
) -> None:
    """Void a record that was entered in error: for another participant, or twice. Nothing brings it back.

    A consent is at /v1/participants/PID/consents/VERSION/NUMBER, under the ETag of the participant; a reading of vital
    signs at /v1/dosing-sessions/ID/vitals/ID, under that of the session.
    """
    with _registry() as registry:
        registry.void(address, etag, reason)
    typer.echo("Voided.")


@app.command()
def nullify(
    address: Annotated[str, typer.Argument(help="Of an adverse event that was reported to the sponsor")],
    aware_at: Annotated[str, typer.Argument(help="When the site saw the error, such as 2026-03-06T09:00:00Z")],
    reason: str,
    late_reason: Annotated[str | None, typer.Option(help="Why the report is late, if it is")] = None,
) -> None:
    """Report that an event never was: it was of another participant, or reported twice. It can be voided after that."""
    report = {"kind": "nullification", "aware_at": aware_at, "nullification_reason": reason}
    with _registry() as registry:
        registry.post(f"{address}/reports", {**report, **({"late_reason": late_reason} if late_reason else {})})
    typer.echo("Nullified.")


def _bar(length: int, label: str) -> AbstractContextManager[Any]:
    return typer.progressbar(length=length, label=label, file=sys.stderr)


def _read(noun: str, file: Path) -> tuple[list[str], list[Row]]:
    """The columns, and each row with a key made from its content and its place among equal rows, so that it is the same
    next time."""
    seen: dict[str, int] = {}
    columns, lines, rows = *_lines(file), []
    for number, line in enumerate(lines, 2):
        if None in line:  # where DictReader keeps what is beyond the last column
            raise typer.BadParameter(f"row {number} has more cells than there are columns")
        record: dict[str, Any] = {}
        for name, cell in line.items():
            if cell:
                _put(record, name.split("."), cell)
        text = json.dumps([noun, record], sort_keys=True)
        seen[text] = seen.get(text, 0) + 1
        rows.append(Row(number, str(uuid5(NAMESPACE_URL, f"{text}{seen[text]}")), record))
    return columns, rows


def _lines(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Spreadsheets write semicolons between the cells where the comma is for decimals; no column's name has one."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as source:
            head = source.readline()
            separator = ";" if ";" in head and "," not in head else ","
            reader = csv.DictReader(chain([head], source), delimiter=separator, strict=True)
            return list(reader.fieldnames or ()), list(reader)
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not in UTF-8: save it as CSV UTF-8") from None
    except csv.Error as error:
        raise typer.BadParameter(f"{file} is not CSV: {error}") from None


def _put(record: dict[str, Any], name: list[str], cell: str) -> None:
    *outer, last = name
    for one in outer:
        record = record.setdefault(one, {})
        if not isinstance(record, dict):
            raise typer.BadParameter(f"the column {one} cannot be a value and hold {'.'.join(name)} as well")
    record[last] = _value(cell, is_number=last in NUMBERS or name[0] in HOLDING_NUMBERS)


def _value(cell: str, *, is_number: bool) -> Any:
    """As JSON where it can be meant so: a label such as 4711, and a year for a date, are texts."""
    if not cell:
        return None
    if cell.lower() in {"true", "false"}:
        return cell.lower() == "true"
    if not is_number and cell != "null" and cell[0] not in '[{"':
        return cell
    try:
        return json.loads(cell, parse_constant=_no_json)
    except ValueError:
        return cell


def _no_json(_: str) -> Any:
    """NaN and Infinity, which Python alone takes for JSON."""
    raise ValueError


@app.command()
def watch(
    after: Annotated[str | None, typer.Option(help="A place that was printed before")] = None,
    once: Annotated[bool, typer.Option(help="Stop when nothing is new")] = False,
) -> None:
    """Print what changes at the site, one JSON object a line, each with the place to go on from."""
    with _registry() as registry:
        place = after
        while True:
            page = registry.get("/v1/changes", after=place, wait=0 if once else 30).body
            place = page["next"]
            for change in page["items"]:
                typer.echo(json.dumps({**change, "place": place}))
            if once and not page["more"]:
                return


@app.command()
def outbox(
    file: Annotated[Path, typer.Argument(help="The app's outbox")],
    send: Annotated[bool, typer.Option(help="Send what waits")] = False,
    every: Annotated[float | None, typer.Option(help="Send again after so many seconds, until interrupted")] = None,
) -> None:
    """What an app's outbox holds, without its contents; with --send, send it first, also what was refused before. With
    --every that is tried again once an hour, so that it does not fill the registry's trail."""
    with _opened(file) as box:
        if send:
            with _registry() as registry:
                _send(box, registry)
                tried = time.monotonic()
                while every is not None:
                    _show(box, "refused")
                    time.sleep(every)
                    again = time.monotonic() >= tried + REFUSED_SECONDS
                    tried = time.monotonic() if again else tried
                    _send(box, registry, again=again)
        _show(box)


def _opened(file: Path) -> Outbox:
    try:
        return Outbox(file)
    except sqlite3.Error as error:
        raise typer.BadParameter(f"{file} is no outbox: {error}") from None


def _send(box: Outbox, registry: Registry, *, again: bool = True) -> None:
    with _bar(sum(act.state != "stored" for act in box.acts()), "outbox") as bar:
        stored = box.send(registry, lambda _: bar.update(1), again=again)
    typer.echo(f"{stored} stored now.")


def _show(box: Outbox, state: str | None = None) -> None:
    for act in box.acts(state):
        reason = f"  {act.problem.get('code')}" if act.problem else ""
        typer.echo(f"{'held' if act.held else act.state:8} @{act.key}  {act.path}{reason}")


def main() -> None:
    """Known failures end in one sentence."""
    try:
        app()
    except NotSignedIn as failure:
        typer.echo(f"{failure} Look at SITE_APP_CLIENT_ID and SITE_APP_CLIENT_SECRET.", err=True)
        sys.exit(2)
    except (RegistryFailure, OSError) as failure:
        typer.echo(str(failure), err=True)
        sys.exit(2)
