"""The first use of each of the provider's tokens in the audit trail: what `session:opened` is for a password."""

from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database
from app.errors import RegistryError
from app.models.account import Account
from app.request_id import current_request_id
from app.security.oidc import OutsideClaims
from app.services.identity.revoking import remember_own_act
from app.services.identity.throttle import Throttle

log = structlog.get_logger()
_TOKENS = 4096


class OutsideSignIns:
    """Called once the answer has left: the provider opened the session, and a busy database must not turn a read into a
    refusal. This worker asks the database once about a token, and the database decides among the workers."""

    def __init__(self, database: Database, throttle: Throttle) -> None:
        self._database, self._throttle = database, throttle
        self._known: set[UUID] = set()

    def __call__(self, claims: OutsideClaims, account_id: UUID) -> None:
        if claims.token_id in self._known:
            return
        if len(self._known) >= _TOKENS:
            self._known.clear()
        self._known.add(claims.token_id)
        try:
            with self._database.write() as session:
                if self._throttle.first_in_a_day(session, "outside", str(claims.token_id)):
                    remember_own_act(session, session.get_one(Account, account_id), "session:outside")
        except (RegistryError, SQLAlchemyError) as failed:
            self._known.discard(claims.token_id)
            log.warning("sign_in_not_remembered", kind=type(failed).__name__, request_id=current_request_id())
