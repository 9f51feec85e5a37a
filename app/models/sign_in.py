"""Sign-in: counted failures, revoked sessions, second factors; and the bodies of requests and answers."""

from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import StringConstraints
from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from app.models.account import Password
from app.models.base import Answer, Shape, now


class Throttle(SQLModel, table=True):
    """A counter of failed attempts on one account or from one address, or what is remembered for a while: that an event
    was told, or that an account uses an address. The key is a keyed digest, so that it names nobody."""

    key: str = Field(max_length=64, primary_key=True)
    failures: int = Field(default=0)
    last_failed_at: datetime = Field(index=True)
    locked_until: datetime | None = None


class Revocation(SQLModel, table=True):
    """An access token (`jti`) or a whole session (`sid`) that was ended before its time."""

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    account_id: UUID = Field(foreign_key="account.id", index=True)
    expires_at: datetime = Field(index=True)
    """When its last access token expires; after that the row can be deleted."""

    revoked_at: datetime = Field(default_factory=now)


class Totp(SQLModel, table=True):
    """A person's second factor (RFC 6238). It is required once it is confirmed."""

    account_id: UUID = Field(primary_key=True, foreign_key="account.id")
    sealed: str = Field(max_length=200)
    """The shared secret, AES-256-GCM, bound to the account."""

    last_step: int | None = Field(default=None, sa_type=BigInteger)
    """The time step of the last accepted code, so that no code is accepted twice."""

    created_at: datetime = Field(default_factory=now)
    confirmed_at: datetime | None = None


Typed = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A name or password as it was typed: any text of bounded length."""

TotpCode = Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]


class SessionCreate(Shape):
    username: Typed
    password: Typed
    totp: TotpCode | None = None
    """The six digits of the second factor, from people who have one."""


class PasswordAgain(Shape):
    password: Typed


class PasswordChange(Shape):
    current: Typed
    new: Password


class TotpOffer(Answer):
    """The one answer that ever shows the shared secret."""

    secret: Annotated[str, Bounded(description="Base32, for typing into an authenticator")]
    otpauth_uri: Annotated[str, Bounded(description="The same as an address, for a QR code")]


class TotpConfirmation(Shape):
    code: TotpCode


class TokenRead(Answer):
    access_token: str
    token_type: str = "Bearer"
    expires_in: Annotated[int, Bounded(description="Seconds")]
    refresh_token: str | None = None
