"""The caller's own account: grants, password, second factor."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.account import Account, AccountKind, MeRead
from app.models.sign_in import PasswordAgain, PasswordChange, TotpConfirmation, TotpOffer
from app.permissions import Permission
from app.routers.auth import client_address, sign_in
from app.services.identity.grants import grants_of
from app.services.identity.own_account import OwnAccount
from app.web.route import Router

router = Router(prefix="/v1/me", tags=["sign-in"])
Me = Annotated[Actor, Depends(requires(Permission.me_read))]
Changing = Annotated[Actor, Depends(requires(Permission.me_write))]


@router.get("")
def read_me(actor: Me, session: ReadSession) -> MeRead:
    """Who the token speaks for, and what they may do."""
    account = session.get_one(Account, actor.account_id)
    return MeRead(
        id=account.id,
        kind=AccountKind(account.kind),
        display_name=account.display_name,
        organisation=account.organisation,
        grants=grants_of(session, [account.id])[account.id],
        permissions=sorted(actor.held),
    )


@router.post("/password", status_code=204)
def change_password(body: PasswordChange, actor: Changing, request: Request, session: WriteSession) -> Response:
    """Change one's own password. Every other session of the account ends."""
    _own(request, actor).change_password(session, body)
    return Response(status_code=204)


@router.post("/totp", status_code=201)
def offer_totp(body: PasswordAgain, actor: Changing, request: Request, session: WriteSession) -> TotpOffer:
    """A secret for an authenticator app, in this answer and nowhere else. Once confirmed, signing in asks for codes."""
    return _own(request, actor).offer_totp(session, body.password)


@router.post("/totp/confirmation", status_code=204)
def confirm_totp(body: TotpConfirmation, actor: Changing, request: Request, session: WriteSession) -> Response:
    """Turn the second factor on, with a code from the authenticator."""
    _own(request, actor).confirm_totp(session, body.code)
    return Response(status_code=204)


def _own(request: Request, actor: Actor) -> OwnAccount:
    return OwnAccount(sign_in(request), actor, client_address(request))
