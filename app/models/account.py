"""Accounts of people and site apps: secrets, tokens and role grants."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import Strict, StringConstraints
from sqlalchemy import CheckConstraint, Index, String
from sqlmodel import Field, SQLModel

from app.models.base import (
    Answer,
    Code,
    Cursor,
    Filter,
    InstantShown,
    Limit,
    QueryBool,
    Reason,
    Shape,
    ShortText,
    now,
    one_of,
)


class Role(StrEnum):
    """What somebody does in the registry. Nobody holds custodian together with analyst or admin."""

    admin = "admin"
    analyst = "analyst"
    custodian = "custodian"
    investigator = "investigator"
    monitor = "monitor"
    site_staff = "site_staff"


CUSTODIAN_EXCLUDES = frozenset({Role.analyst, Role.admin})


class AccountKind(StrEnum):
    client = "client"
    user = "user"


class Account(SQLModel, table=True):
    """A person (`user`) or a site app (`client`). Never deleted: the audit trail refers to it."""

    __table_args__ = (
        one_of("kind", AccountKind),
        Index("ix_account_oidc", "oidc_issuer", "oidc_subject", unique=True),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    kind: AccountKind = Field(sa_type=String(16))
    login: str = Field(max_length=64, unique=True)
    """The username of a person, the client id of a site app."""

    display_name: str = Field(max_length=200)
    organisation: str = Field(max_length=200)
    password_hash: str | None = Field(default=None, max_length=200)
    password_given_at: datetime | None = None
    """When somebody else set the password; None once the person has changed it. Until then it proves no identity."""

    grants_version: int = Field(default=1)
    """Increased by every change of grants and when all sessions end; access tokens with an older number are refused."""

    oidc_issuer: str | None = Field(default=None, max_length=255)
    oidc_subject: str | None = Field(default=None, max_length=255)
    """The person's identifier at the institution's OpenID Connect provider (`sub`)."""

    disabled_at: datetime | None = None
    created_at: datetime = Field(default_factory=now)


class ClientSecret(SQLModel, table=True):
    """A site app's secret, stored as a keyed SHA-256: it is random, so a slow hash would only cost time."""

    __tablename__ = "client_secret"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    account_id: UUID = Field(foreign_key="account.id", index=True)
    digest: str = Field(max_length=64)
    created_at: datetime = Field(default_factory=now)
    revoked_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    """When it was last used to get a token, accurate to about a minute."""


class RefreshToken(SQLModel, table=True):
    """An opaque refresh token, stored as a keyed SHA-256, used once."""

    __tablename__ = "refresh_token"

    digest: str = Field(max_length=64, primary_key=True)
    account_id: UUID = Field(foreign_key="account.id", index=True)
    family: UUID = Field(default_factory=uuid4, index=True)
    """The same for all tokens that come from one sign-in; if a used token is sent again, all of them are revoked."""

    expires_at: datetime
    """When the session ends: the same for all tokens of a family."""

    used_at: datetime | None = None
    revoked_at: datetime | None = None
    created_at: datetime = Field(default_factory=now)


class RoleGrant(SQLModel, table=True):
    """A role at one site, at all sites of a study (no site), or for the deployment (admin only)."""

    __tablename__ = "role_grant"
    __table_args__ = (
        one_of("role", Role),
        CheckConstraint("(study_id IS NULL) = (role = 'admin')", name="admin_is_deployment_wide"),
        CheckConstraint(
            "site_id IS NULL OR role IN ('investigator', 'site_staff', 'monitor')", name="site_only_for_clinical_roles"
        ),
        Index("ix_role_grant_account_id", "account_id"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    account_id: UUID = Field(foreign_key="account.id")
    role: Role = Field(sa_type=String(16))
    study_id: int | None = Field(default=None, foreign_key="study.id")
    site_id: int | None = Field(default=None, foreign_key="site.id")
    granted_by: UUID | None = Field(default=None, foreign_key="account.id")
    granted_at: datetime = Field(default_factory=now)
    revoked_at: datetime | None = None


Username = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._\-]{2,63}$")]
Password = Annotated[str, StringConstraints(min_length=12, max_length=128)]
"""At least 12 characters, no composition rules (OWASP ASVS 5.0, 6.2.1 and 6.2.5)."""


class UserCreate(Shape):
    username: Username
    display_name: ShortText
    organisation: ShortText
    password: Password


class ClientCreate(Shape):
    name: ShortText
    organisation: ShortText


class GrantCreate(Shape):
    role: Annotated[Role, Strict(False)]
    study: Code | None = None
    sites: Annotated[list[Code], Bounded(max_length=500)] | None = None
    """Codes of the sites; absent means all sites of the study."""

    reason: Reason | None = None
    """Why, for the audit trail."""


class AccountAmend(Shape):
    """A change of an account: only the fields sent change."""

    reason: Reason
    disabled: bool | None = None
    display_name: ShortText | None = None
    organisation: ShortText | None = None


class PasswordSet(Shape):
    password: Password
    reason: Reason
    second_factor_off: bool = False
    """Also take off a second factor that the person has lost."""


class IdentityLink(Shape):
    """The person's identifier at the institution's provider; null removes the link."""

    subject: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")] | None
    reason: Reason


class ReasonGiven(Shape):
    """Why something is revoked or withdrawn."""

    reason: Reason


class SecretCreate(Shape):
    expires_in_days: Annotated[int, Bounded(ge=1, le=730)] | None = None
    """How long the new secret is valid; absent: until it is revoked."""

    overlap_hours: Annotated[int, Bounded(ge=0, le=720)] = 24
    """How long the older secret stays valid, so that the app can be given the new one."""

    reason: Reason


class GrantRead(Answer):
    id: UUID
    role: Role
    study: str | None
    site: str | None
    granted_at: InstantShown


class AccountRead(Answer):
    id: UUID
    kind: AccountKind
    login: str
    display_name: str
    organisation: str
    disabled: bool
    grants: list[GrantRead]


class SecretRead(Answer):
    """A secret as it is shown: without the secret itself and its digest."""

    id: UUID
    created_at: InstantShown
    expires_at: InstantShown | None
    last_used_at: InstantShown | None
    revoked: bool


class ClientRead(AccountRead):
    secrets: list[SecretRead]


class SecretCreated(SecretRead):
    """The one answer that ever shows this secret."""

    client_id: str
    client_secret: str


class ClientCreated(AccountRead):
    """A new site app with its first secret, which no other answer shows."""

    client_id: str
    client_secret: str


class AccountList(Answer):
    items: list[AccountRead]
    next: str | None = None


class AccountFilter(Filter):
    disabled: QueryBool | None = None
    role: Role | None = None
    limit: Limit = 50
    cursor: Cursor = None


class MeRead(Answer):
    id: UUID
    kind: AccountKind
    display_name: str
    organisation: str
    grants: list[GrantRead]
    permissions: list[str]
