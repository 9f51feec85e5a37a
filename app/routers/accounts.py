"""Accounts of people and site apps, their grants and secrets: for admins."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import Session

from app.access import Actor, requires, visible
from app.database import ReadSession, WriteSession
from app.models.account import (
    Account,
    AccountAmend,
    AccountFilter,
    AccountKind,
    AccountList,
    AccountRead,
    ClientCreate,
    ClientCreated,
    ClientRead,
    GrantCreate,
    IdentityLink,
    PasswordSet,
    ReasonGiven,
    SecretCreate,
    SecretCreated,
    UserCreate,
)
from app.models.base import Code
from app.pagination import Page
from app.permissions import Permission
from app.services.identity import accounts, client_secrets, grants
from app.web.conditional import IfMatch
from app.web.route import Router

router = Router(prefix="/v1", tags=["accounts"])
Reader = Annotated[Actor, Depends(requires(Permission.account_read))]
Writer = Annotated[Actor, Depends(requires(Permission.account_write))]
Asked = Annotated[AccountFilter, Query()]


@router.get("/users")
def list_users(query: Asked, actor: Reader, request: Request, response: Response, session: ReadSession) -> AccountList:
    """People's accounts, newest first."""
    return _list(session, actor, AccountKind.user, Page(request, response, actor, query), query)


@router.post("/users", status_code=201)
def create_user(body: UserCreate, actor: Writer, request: Request, session: WriteSession) -> AccountRead:
    """An account for a person; without grants it may do nothing."""
    return accounts.account_read(session, accounts.create_user(session, actor, request.app.state.passwords, body))


@router.get("/users/{user_id}")
def read_user(user_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession) -> AccountRead:
    """One person's account with its grants."""
    account = accounts.account_by_id(session, actor, AccountKind.user, user_id)
    return _shown(session, request, response, account)


@router.patch("/users/{user_id}")
def amend_user(
    user_id: UUID,
    body: AccountAmend,
    actor: Writer,
    seen: IfMatch,
    request: Request,
    response: Response,
    session: WriteSession,
) -> AccountRead:
    """Rename, disable or enable a person's account. Disabling ends their sessions."""
    account = accounts.account_by_id(session, actor, AccountKind.user, user_id)
    accounts.amend(session, actor, account, body, seen)
    return _shown(session, request, response, account)


@router.post("/users/{user_id}/password", status_code=201)
def set_password(
    user_id: UUID, body: PasswordSet, actor: Writer, request: Request, session: WriteSession
) -> AccountRead:
    """Set a person's password and end their sessions."""
    with request.app.state.database.read(request) as reading:
        known = accounts.account_by_id(reading, actor, AccountKind.user, user_id)
    account = accounts.set_password(session, actor, request.app.state.passwords, known, body)
    return accounts.account_read(session, account)


@router.post("/users/{user_id}/identity", status_code=201)
def link_identity(
    user_id: UUID, body: IdentityLink, actor: Writer, request: Request, session: WriteSession
) -> AccountRead:
    """Link a person to who they are at the institution's sign-in service, or take the link away."""
    account = accounts.account_by_id(session, actor, AccountKind.user, user_id)
    accounts.link_identity(session, actor, account, request.app.state.settings.oidc_issuer, body)
    return accounts.account_read(session, account)


@router.post("/users/{user_id}/sessions/revocation", status_code=201)
def revoke_user_sessions(user_id: UUID, body: ReasonGiven, actor: Writer, session: WriteSession) -> AccountRead:
    """Sign a person out everywhere."""
    account = accounts.account_by_id(session, actor, AccountKind.user, user_id)
    accounts.revoke_sessions(session, actor, account, body.reason)
    return accounts.account_read(session, account)


@router.post("/users/{user_id}/grants", status_code=201)
def grant_to_user(user_id: UUID, body: GrantCreate, actor: Writer, session: WriteSession) -> AccountRead:
    """Give a person a role in a study, or at some of its sites."""
    account = accounts.account_by_id(session, actor, AccountKind.user, user_id)
    grants.grant(session, actor, account, body)
    return accounts.account_read(session, account)


@router.post("/users/{user_id}/grants/{grant_id}/revocation", status_code=201)
def revoke_user_grant(
    user_id: UUID, grant_id: UUID, body: ReasonGiven, actor: Writer, session: WriteSession
) -> AccountRead:
    """Take a grant from a person, with the reason. Their tokens from before end."""
    account = accounts.account_by_id(session, actor, AccountKind.user, user_id)
    grants.revoke(session, actor, account, grant_id, body.reason)
    return accounts.account_read(session, account)


@router.get("/clients")
def list_clients(
    query: Asked, actor: Reader, request: Request, response: Response, session: ReadSession
) -> AccountList:
    """Site apps, newest first."""
    return _list(session, actor, AccountKind.client, Page(request, response, actor, query), query)


@router.post("/clients", status_code=201)
def create_client(body: ClientCreate, actor: Writer, request: Request, session: WriteSession) -> ClientCreated:
    """An account for a site app. Its secret is in this answer and nowhere else."""
    account, secret = accounts.create_client(session, actor, request.app.state.keyring, body)
    read = accounts.account_read(session, account)
    return ClientCreated(**read.model_dump(), client_id=account.login, client_secret=secret)


@router.get("/clients/{client_id}")
def read_client(
    client_id: Code, actor: Reader, request: Request, response: Response, session: ReadSession
) -> ClientRead:
    """A site app, with the ids and dates of its secrets, but not the secrets."""
    account = accounts.client_by_login(session, actor, client_id)
    _shown(session, request, response, account)
    return client_secrets.client_read(session, account)


@router.patch("/clients/{client_id}")
def amend_client(
    client_id: Code,
    body: AccountAmend,
    actor: Writer,
    seen: IfMatch,
    request: Request,
    response: Response,
    session: WriteSession,
) -> AccountRead:
    """Rename, disable or enable a site app. Disabling ends its tokens."""
    account = accounts.client_by_login(session, actor, client_id)
    accounts.amend(session, actor, account, body, seen)
    return _shown(session, request, response, account)


@router.post("/clients/{client_id}/grants", status_code=201)
def grant_to_client(client_id: Code, body: GrantCreate, actor: Writer, session: WriteSession) -> AccountRead:
    """Give a site app a role in a study, or at some of its sites."""
    account = accounts.client_by_login(session, actor, client_id)
    grants.grant(session, actor, account, body)
    return accounts.account_read(session, account)


@router.post("/clients/{client_id}/grants/{grant_id}/revocation", status_code=201)
def revoke_client_grant(
    client_id: Code, grant_id: UUID, body: ReasonGiven, actor: Writer, session: WriteSession
) -> AccountRead:
    """Take a grant from a site app, with the reason. Its tokens from before end."""
    account = accounts.client_by_login(session, actor, client_id)
    grants.revoke(session, actor, account, grant_id, body.reason)
    return accounts.account_read(session, account)


@router.post("/clients/{client_id}/secrets", status_code=201)
def rotate_client_secret(
    client_id: Code, body: SecretCreate, actor: Writer, request: Request, session: WriteSession
) -> SecretCreated:
    """A new secret, shown once; the older one stays valid for the overlap."""
    account = accounts.client_by_login(session, actor, client_id)
    return client_secrets.rotate(session, actor, request.app.state.keyring, account, body)


@router.post("/clients/{client_id}/secrets/{secret_id}/revocation", status_code=201)
def revoke_client_secret(
    client_id: Code, secret_id: UUID, body: ReasonGiven, actor: Writer, session: WriteSession
) -> ClientRead:
    """Revoke a secret now. The client's tokens end with it."""
    account = accounts.client_by_login(session, actor, client_id)
    client_secrets.revoke(session, actor, account, secret_id, body.reason)
    return client_secrets.client_read(session, account)


def _list(session: Session, actor: Actor, kind: AccountKind, page: Page, query: AccountFilter) -> AccountList:
    statement = visible(accounts.rows(kind, query), actor)
    rows, after = page.read(session, statement, Account.created_at, Account.id)
    return AccountList(items=accounts.read_all(session, rows), next=after)


def _shown(session: Session, request: Request, response: Response, account: Account) -> AccountRead:
    response.headers["ETag"] = accounts.account_etag(session, request.app.state.keyring, account)
    return accounts.account_read(session, account)
