"""demo.json: the demo's address and accounts, for scripts and for starting the demo again."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field


class DemoAccount(BaseModel):
    """Somebody who can sign in: a person (`user`) or a site app (`client`), with a fresh access token."""

    role: Literal["site_staff", "investigator", "monitor", "analyst", "custodian", "admin"]
    kind: Literal["user", "client"] = "user"
    sites: list[str] = []
    """Codes of the sites whose records the account sees; empty for roles that see none."""

    organisation: str
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    client_id: str | None = None
    client_secret: str | None = Field(default=None, repr=False)
    token: str = Field(default="", repr=False)


class Demo(BaseModel):
    """One loaded demo. It holds passwords, so its file is for the owner only."""

    base_url: str
    study: str
    sites: list[str]
    extract: str
    """Id of an extract that is ready to be downloaded by the first analyst."""

    accounts: list[DemoAccount]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError, pydantic.ValidationError."""
        return cls.model_validate_json(path.read_text())

    def write(self, path: Path) -> None:
        """Replace the file as a whole; mode 0600."""
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(self.model_dump_json(indent=1, exclude_none=True) + "\n")
        fresh.replace(path)

    def first(self, role: str, site: str | None = None) -> DemoAccount:
        """The first account of a role, at `site` if that is given."""
        return next(one for one in self.accounts if one.role == role and (site is None or site in one.sites))
