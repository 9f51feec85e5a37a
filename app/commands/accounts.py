"""`registry user`, `registry client` and `registry grant`."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.commands import JSON, WHY, ask_password, reading, show, writing
from app.errors import CannotGoOn, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from sqlmodel import Session

    from app.models.account import Account

user_app = typer.Typer(help="People's accounts.", no_args_is_help=True)
client_app = typer.Typer(help="Site apps and their secrets.", no_args_is_help=True)
grant_app = typer.Typer(help="Roles of people and site apps.", no_args_is_help=True)
LINE = "{login}  {display_name}  disabled: {disabled}  id: {id}"
SECRET = "secret {id}  made {created_at}  until {expires_at}  used {last_used_at}  revoked: {revoked}"
GRANT = "{role}  study: {study}  site: {site}  since {granted_at}  id: {id}"


@user_app.command("create")
def create_user(
    username: str,
    name: Annotated[str, typer.Option(help="Display name.")],
    organisation: Annotated[str, typer.Option()],
) -> None:
    """Make an account for a person. It may do nothing until it is given a role."""
    from app.models.account import UserCreate
    from app.security.passwords import Passwords
    from app.services.identity import accounts
    from app.web.merging import checked

    fields = {"username": username, "display_name": name, "organisation": organisation}
    body = checked(UserCreate, {**fields, "password": ask_password(username)})
    with writing() as (session, settings):
        accounts.create_user(session, None, Passwords(settings), body)
    typer.echo(f"Made {username}.")


@user_app.command("password")
def set_password(
    username: str,
    reason: WHY,
    second_factor_off: Annotated[bool, typer.Option(help="Also remove a second factor that was lost.")] = False,
) -> None:
    """Set a person's password and end their sessions."""
    from app.models.account import PasswordSet
    from app.security.passwords import Passwords
    from app.services.identity import accounts
    from app.web.merging import checked

    with reading() as session:
        known = _account(session, username, "user")
    fields = {"password": ask_password(username), "reason": reason, "second_factor_off": second_factor_off}
    body = checked(PasswordSet, fields)
    with writing() as (session, settings):
        accounts.set_password(session, None, Passwords(settings), known, body)
    typer.echo(f"{username} has a new password; all sessions are ended.")


@user_app.command("sessions-revoke")
def revoke_sessions(username: str, reason: WHY) -> None:
    """Sign somebody out everywhere."""
    from app.models.account import ReasonGiven
    from app.services.identity import accounts
    from app.web.merging import checked

    body = checked(ReasonGiven, {"reason": reason})
    with writing() as (session, _):
        account = _account(session, username, "user")
        accounts.revoke_sessions(session, None, account, body.reason)
    typer.echo(f"All sessions of {username} are ended.")


@client_app.command("create")
def create_client(name: str, organisation: Annotated[str, typer.Option()]) -> None:
    """Make an account for a site app; print its id and, this once, its secret."""
    from app.models.account import ClientCreate
    from app.security.keys import load_keyring
    from app.services.identity import accounts
    from app.web.merging import checked

    body = checked(ClientCreate, {"name": name, "organisation": organisation})
    with writing() as (session, settings):
        account, secret = accounts.create_client(session, None, load_keyring(settings), body)
    typer.echo(f"client_id: {account.login}\nclient_secret: {secret}")


@client_app.command("secret")
def rotate_secret(
    client_id: str,
    reason: WHY,
    overlap_hours: Annotated[int, typer.Option(help="Hours that the older secret stays valid.")] = 24,
    expires_in_days: Annotated[int | None, typer.Option(help="Days that the new secret is valid.")] = None,
) -> None:
    """Make a new secret for a site app, and print it this once."""
    from app.models.account import SecretCreate
    from app.security.keys import load_keyring
    from app.services.identity import client_secrets
    from app.web.merging import checked

    asked = {"reason": reason, "overlap_hours": overlap_hours, "expires_in_days": expires_in_days}
    body = checked(SecretCreate, asked)
    with writing() as (session, settings):
        account = _account(session, client_id, "client")
        made = client_secrets.rotate(session, None, load_keyring(settings), account, body)
    typer.echo(f"client_secret: {made.client_secret}")


@client_app.command("secret-revoke")
def revoke_secret(client_id: str, secret_id: str, reason: WHY) -> None:
    """Revoke a secret at once. All tokens of the site app become invalid too."""
    from app.models.account import ReasonGiven
    from app.services.identity import client_secrets
    from app.web.merging import checked

    body = checked(ReasonGiven, {"reason": reason})
    wanted = _id(secret_id, "a secret's id, as `registry client show` shows it")
    with writing() as (session, _):
        account = _account(session, client_id, "client")
        with _missing(f"{client_id} has no such secret in use. `registry client show {client_id}` shows them."):
            client_secrets.revoke(session, None, account, wanted, body.reason)
    typer.echo(f"The secret of {client_id} is revoked.")


def _add_shared_commands(app: typer.Typer, kind: Literal["user", "client"]) -> None:
    """Add the commands that people's accounts and site apps have in common."""

    @app.command("list")
    def list_accounts(as_json: JSON = False) -> None:
        """List all accounts."""
        from app.models.account import AccountFilter, AccountKind
        from app.services.identity import accounts

        with reading() as session:
            rows = session.connection().execute(accounts.rows(AccountKind(kind), AccountFilter())).all()
            show([*accounts.read_all(session, rows)], as_json, LINE)

    @app.command("show")
    def show_account(login: str, as_json: JSON = False) -> None:
        """Show an account with its grants; a site app also with its secrets."""
        from app.services.identity import accounts, client_secrets

        with reading() as session:
            account = _account(session, login, kind)
            if kind == "user":
                show([accounts.account_read(session, account)], as_json, LINE)
                return
            read = client_secrets.client_read(session, account)
            show([read], as_json, LINE)
            if not as_json:
                show([*read.secrets], False, SECRET)

    @app.command("disable")
    def disable(login: str, reason: WHY) -> None:
        """End all sessions of an account, and refuse every sign-in until it is enabled."""
        _set_disabled(kind, login, reason, True)
        typer.echo(f"{login} is disabled.")

    @app.command("enable")
    def enable(login: str, reason: WHY) -> None:
        """Allow a disabled account to sign in again, with the roles that it still has."""
        _set_disabled(kind, login, reason, False)
        typer.echo(f"{login} is enabled.")


def _set_disabled(kind: Literal["user", "client"], login: str, reason: str, disabled: bool) -> None:
    from app.models.account import AccountAmend
    from app.services.identity import accounts
    from app.web.merging import checked

    body = checked(AccountAmend, {"disabled": disabled, "reason": reason})
    with writing() as (session, _):
        accounts.amend(session, None, _account(session, login, kind), body)


_add_shared_commands(user_app, "user")
_add_shared_commands(client_app, "client")


@grant_app.command("give")
def give(
    login: str,
    role: str,
    reason: WHY,
    study: Annotated[str | None, typer.Option(help="Every role but admin needs one.")] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Code of a site; repeat for more. Default: the whole study.")
    ] = None,
) -> None:
    """Give a role to a person or a site app."""
    from app.models.account import GrantCreate
    from app.services.identity import grants
    from app.web.merging import checked

    body = checked(GrantCreate, {"role": role, "study": study, "sites": site or None, "reason": reason})
    with writing() as (session, _):
        account = _account(session, login)
        with _missing("There is no such study, or no such site in it."):
            grants.grant(session, None, account, body)
    typer.echo(f"{login} is {role} now.")


@grant_app.command("list")
def list_grants(login: str, as_json: JSON = False) -> None:
    """List the roles that an account has now."""
    from app.services.identity import grants

    with reading() as session:
        account = _account(session, login)
        show([*grants.grants_of(session, [account.id])[account.id]], as_json, GRANT)


@grant_app.command("revoke")
def revoke_grant(login: str, grant_id: str, reason: WHY) -> None:
    """Take a role away."""
    from app.models.account import ReasonGiven
    from app.services.identity import grants
    from app.web.merging import checked

    body = checked(ReasonGiven, {"reason": reason})
    wanted = _id(grant_id, "a grant's id, as `registry grant list` shows it")
    with writing() as (session, _):
        account = _account(session, login)
        with _missing(f"{login} has no such grant. `registry grant list {login}` shows them."):
            grants.revoke(session, None, account, wanted, body.reason)
    typer.echo(f"The grant of {login} is revoked.")


def _id(text: str, wanted: str) -> "UUID":
    from uuid import UUID

    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(wanted) from None


def _account(session: "Session", login: str, kind: Literal["user", "client"] | None = None) -> "Account":
    """The account of a person or a site app, among whom logins are unique. Raises CannotGoOn."""
    from sqlmodel import select

    from app.models.account import Account

    account = session.exec(select(Account).where(Account.login == login)).first()
    if account is None or kind not in {None, account.kind}:
        lists = f"`registry {kind} list` shows" if kind else "`registry user list` and `registry client list` show"
        raise CannotGoOn(f"There is no {kind or 'account'} {login}. {lists} all.")
    return account


@contextmanager
def _missing(sentence: str) -> "Iterator[None]":
    """Say what is missing. The refusal itself does not, as in the API it is the same for what others have."""
    try:
        yield
    except NotFound:
        raise CannotGoOn(sentence) from None
