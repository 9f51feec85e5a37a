"""Accounts of people and site apps, and their grants: for admins."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from sqlmodel import Session, col, select

from app.access import Actor, Permission, requires, visible
from app.database import ReadSession, WriteSession
from app.models.account import (
    Account,
    AccountKind,
    AccountList,
    AccountRead,
    ClientCreate,
    ClientCreated,
    GrantCreate,
    UserCreate,
)
from app.models.base import Code
from app.services import accounts
from app.web.route import StrictRoute

router = APIRouter(prefix="/v1", tags=["accounts"], route_class=StrictRoute)
Reader = Annotated[Actor, Depends(requires(Permission.account_read))]
Writer = Annotated[Actor, Depends(requires(Permission.account_write))]


@router.get("/users")
def list_users(actor: Reader, session: ReadSession) -> AccountList:
    return _list(session, actor, AccountKind.user)


@router.post("/users", status_code=201)
def create_user(body: UserCreate, actor: Writer, request: Request, session: WriteSession) -> AccountRead:
    """An account for a person; without grants it may do nothing."""
    return accounts.account_read(session, accounts.create_user(session, actor, request.app.state.passwords, body))


@router.post("/users/{user_id}/grants", status_code=201)
def grant_to_user(user_id: UUID, body: GrantCreate, actor: Writer, session: WriteSession) -> AccountRead:
    account = accounts.account_by_id(session, actor, AccountKind.user, user_id)
    accounts.grant(session, actor, account, body)
    return accounts.account_read(session, account)


@router.get("/clients")
def list_clients(actor: Reader, session: ReadSession) -> AccountList:
    return _list(session, actor, AccountKind.client)


@router.post("/clients", status_code=201)
def create_client(body: ClientCreate, actor: Writer, request: Request, session: WriteSession) -> ClientCreated:
    """An account for a site app. Its secret is in this answer and nowhere else."""
    account, secret = accounts.create_client(session, actor, request.app.state.keyring, body)
    read = accounts.account_read(session, account)
    return ClientCreated(**read.model_dump(), client_id=account.login, client_secret=secret)


@router.post("/clients/{client_id}/grants", status_code=201)
def grant_to_client(client_id: Code, body: GrantCreate, actor: Writer, session: WriteSession) -> AccountRead:
    account = accounts.client_by_login(session, actor, client_id)
    accounts.grant(session, actor, account, body)
    return accounts.account_read(session, account)


def _list(session: Session, actor: Actor, kind: AccountKind) -> AccountList:
    statement = visible(select(Account).where(Account.kind == kind).order_by(col(Account.login)), actor)
    return AccountList(items=[accounts.account_read(session, row) for row in session.exec(statement).all()])
