"""Settings: read once from the environment (`REGISTRY_...`), handed down, never imported as a global."""

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

MAX_PRODUCTION_TOKEN_SECONDS = 900
PREFIX = "REGISTRY_"
NOT_SETTINGS = frozenset(
    {
        "REGISTRY_ADMIN_PASSWORD",
        "REGISTRY_NEW_PASSWORD",
        "REGISTRY_SECRETS_DIR",
        "REGISTRY_TEST_ALL_ORDERS",
        "REGISTRY_TEST_FUZZED_TOKENS",
        "REGISTRY_TEST_FUZZ_SEED",
        "REGISTRY_TEST_POSTGRES_URL",
        "REGISTRY_UPDATE_DOCS",
    }
)
"""Variables of commands and tests, which are no settings of a deployment."""


DRIVERS = frozenset({"postgresql+psycopg", "sqlite", "sqlite+pysqlite"})
_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_ORIGIN = re.compile(rf"(https://{_LABEL}(\.{_LABEL})*|http://(localhost|127\.0\.0\.1))(:(?P<port>[0-9]{{1,5}}))?")
_IN_MEMORY = frozenset({None, "", ":memory:"})


class SecretsFolderMissing(Exception):
    """The folder of secrets is not there; the message says which setting to change."""


def secrets_folder() -> Path | None:
    """The folder whose files hold settings, such as the one where containers find their secrets: a file is named like
    its variable, in capitals or not, and holds the value. Raises SecretsFolderMissing."""
    named = os.environ.get("REGISTRY_SECRETS_DIR")
    if named is None:
        return None
    if not named or not Path(named).is_dir():
        raise SecretsFolderMissing("REGISTRY_SECRETS_DIR must name a folder that is there.")
    return Path(named)


def secret(name: str) -> str | None:
    """A password that is no setting: from the variable `name`, or else from its file."""
    folder = secrets_folder()
    files = [file for file in folder.iterdir() if file.name.upper() == name] if folder else []
    return os.environ.get(name) or (files[0].read_text().strip() if files else None)


def _is_ours(address: str) -> bool:
    """A server, or a file: what is in memory is gone with its connection."""
    try:
        url = make_url(address)
    except ArgumentError:
        return False
    return url.drivername in DRIVERS and (url.get_backend_name() != "sqlite" or url.database not in _IN_MEMORY)


class Settings(BaseSettings):
    """How one deployment runs. There are no default secrets: keys come from `key_file` alone."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    environment: Literal["production", "demo"] = "production"
    """`demo` allows long-lived tokens and a demo key file."""

    database_url: Annotated[str, Field(repr=False)] = "sqlite:///registry.db"
    """SQLAlchemy URL; `postgresql+psycopg://...` in production."""

    owner_database_url: Annotated[str | None, Field(repr=False)] = None
    """PostgreSQL: the same database, as the role that owns the tables, for `registry` commands only. The server's own
    role, that of `database_url`, owns nothing."""

    vault_url: Annotated[str | None, Field(repr=False)] = None
    """A database of its own for the sites' labels of participants; none keeps them in the main database. Extracts are
    built without it."""

    owner_vault_url: Annotated[str | None, Field(repr=False)] = None
    """PostgreSQL: the vault's database as the role that owns its tables."""

    erasure_journal: Path | None = None
    """File that notes which labels were erased, so that a restored backup does not bring them back; on storage that all
    workers share, apart from the databases. None: `registry-erasures.jsonl` beside the key file."""

    backup_folder: Path | None = None
    """The folder of `registry backup daily`, for `registry doctor`, which says when the last backup is too old."""

    key_file: Path = Path("registry-keys.json")
    """JSON file with signing, encryption and derivation keys; made by `registry init`, mode 0600."""

    issuer: str = "research-registry"
    """Who issues access tokens (`iss`); a token of another issuer is refused."""

    audience: str = "research-registry-api"
    """For whom access tokens are (`aud`); a token for another is refused."""

    oidc_issuer: str | None = None
    """Issuer of the institution's OpenID Connect provider, exactly as its tokens name it; none turns it off."""

    oidc_audience: str | None = None
    """For whom the provider's access tokens are (`aud`); required with an issuer."""

    oidc_jwks_url: str | None = None
    """Address of the provider's keys; without it the provider's discovery document names it."""

    access_token_seconds: Annotated[int, Field(ge=30, le=86_400)] = MAX_PRODUCTION_TOKEN_SECONDS
    """How long an access token is valid; at most 900 in production."""

    refresh_token_seconds: Annotated[int, Field(ge=300, le=43_200)] = 43_200
    """How long after signing in a person's session can be renewed, and its refresh tokens used, each once."""

    pool_size: Annotated[int, Field(ge=1, le=64)] = 4
    """Database connections a worker holds; a waiting request gives up after `pool_timeout_seconds` with 503. On
    PostgreSQL it takes up to four more for extracts."""

    pool_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long a request waits for a connection, or on SQLite for its turn to write."""

    pooler: Literal["none", "transaction"] = "none"
    """`transaction`: a pooler such as PgBouncer is before PostgreSQL and gives each transaction any of its connections.
    Then no statement is prepared, and each transaction sets its own time limits."""

    statement_timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 30
    """PostgreSQL ends a statement, and a transaction left idle, after this time."""

    max_body_bytes: Annotated[int, Field(ge=1_024, le=64 * 1024 * 1024)] = 1024 * 1024
    """A larger body is refused with 413."""

    max_bulk_lines: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    """Lines of one bulk request; of all-or-nothing ones too."""

    body_seconds: Annotated[int, Field(ge=5, le=3_600)] = 60
    """How long a request's body may take to arrive, and each block of 250 lines of a bulk upload; more is refused with
    408."""

    requests_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 6_000
    """Requests of one account a minute in each worker, all at once if it likes; more are refused with 429 and
    `Retry-After`. 0: any number."""

    max_header_bytes: Annotated[int, Field(ge=4_096, le=60_000)] = 16 * 1024
    """More bytes of headers, names and values together, are refused with 431. An access token may have 4096."""

    max_target_bytes: Annotated[int, Field(ge=2_048, le=60_000)] = 4 * 1024
    """A longer path and query are refused with 414. The longest that the registry itself makes has about 1500."""

    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""
    """The path below which the proxy publishes the registry, such as `/registry`; none at the root of a host. The proxy
    may remove it or pass it on."""

    public_url: str | None = None
    """Where users reach the registry, such as `https://registry.example.org`; its path is `root_path`. Links in
    messages then begin with both. None: they begin with `/v1`."""

    hsts_seconds: Annotated[int, Field(ge=0, le=63_072_000)] = 0
    """How long browsers are to use HTTPS only (`Strict-Transport-Security`); 0 sends no such header. Set it once the
    proxy serves HTTPS for good."""

    cors_origins: str = ""
    """Browser pages that may call the API: exact origins such as `https://desk.example.org`, separated by commas. None
    by default; never with cookies, as there are none."""

    sqlite_synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """FULL: an acknowledged write survives a power cut. NORMAL is for measurements only."""

    grants_cache_seconds: Annotated[float, Field(ge=0, le=10)] = 1.0
    """How long a worker may go on with an account's grants before it looks again: a revocation takes effect on every
    worker within this time."""

    throttle_account_failures: Annotated[int, Field(ge=1, le=100)] = 5
    """Failed attempts on one account before it has to wait: a minute, then twice as long each time, 15 at most. At an
    address where it signed in within a month, only the failures from there count."""

    throttle_address_failures: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """The same for one client address (IPv6: one /64 network). More, as a whole hospital may share an address."""

    argon2_memory_kib: Annotated[int, Field(ge=8)] = 19_456
    """Memory of one password hash, KiB; OWASP's floor for Argon2id with t=2, p=1."""

    webhook_private_networks: str = ""
    """Private networks where webhooks may be delivered, such as `10.20.0.0/16, fd00:1::/64`. Without them only public
    addresses: an address that somebody typed must not reach the machines behind the registry's own firewall."""

    smtp_host: str | None = None
    """The mail server that takes notifications; none turns e-mail off."""

    smtp_port: Annotated[int, Field(ge=1, le=65_535)] = 587
    """Its port; 587 is that of submission with STARTTLS."""

    smtp_security: Literal["starttls", "none"] = "starttls"
    """`none` is for a relay on the same machine, without a password."""

    smtp_user: str | None = None
    """Who signs in to the mail server; none signs in nobody."""

    smtp_password: SecretStr | None = None
    """The password of `smtp_user`."""

    smtp_from: str | None = None
    """The sender's mail address; required with a mail server."""

    reserved_pids_per_site: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    """How many pids a site may have reserved, in blocks that are open, without anybody enrolled under them."""

    retry_days: Annotated[int, Field(ge=30, le=3_650)] = 90
    """How long a retry under the same Idempotency-Key gets the first answer; longer than any tablet is offline."""

    extract_days: Annotated[int, Field(ge=1, le=3_650)] = 7
    """How long the files of an approved extract can be downloaded; `registry extracts expire` then deletes them."""

    delivery_attempts: Annotated[int, Field(ge=1, le=100)] = 24
    """How often a message is tried before it is dead. With the default pauses that takes about two days."""

    delivery_pause_seconds: Annotated[int, Field(ge=1, le=3_600)] = 5
    """The pause after the first failure; it doubles each time, less up to a half at random."""

    delivery_longest_pause_seconds: Annotated[int, Field(ge=1, le=86_400)] = 14_400
    """The longest pause between two attempts."""

    delivery_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long a receiver may take to answer a webhook, and a mail server for each step."""

    metrics_token: Annotated[SecretStr | None, Field(min_length=16)] = None
    """The bearer secret with which a monitoring system reads `/metrics`; none closes it."""

    traces_endpoint: Annotated[str | None, Field(pattern=r"^https?://[^/\s]+")] = None
    """Where an OpenTelemetry collector takes traces by OTLP over HTTP, such as `http://collector:4318/v1/traces`; none
    sends none. Needs the package's extra `tracing`."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level of log lines that are written."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """A variable counts before a file of the same name in REGISTRY_SECRETS_DIR."""
        folder = secrets_folder()
        files = () if folder is None else (SecretsSettingsSource(settings_cls, folder),)
        return (init_settings, env_settings, *files)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_means_no_default(cls, value: Any, info: ValidationInfo) -> Any:
        """What a file of variables left empty was forgotten, and an empty path is the folder that one stands in."""
        if isinstance(value, str) and not value.strip() and cls.model_fields[str(info.field_name)].default != "":
            raise ValueError("May not be empty. Give it a value, or do not set it at all")
        return value

    @model_validator(mode="after")
    def _no_unknown_variable(self) -> Self:
        """A mistyped name must not leave a default in force that nobody chose."""
        known = {f"{PREFIX}{name}".upper() for name in type(self).model_fields} | NOT_SETTINGS
        folder = secrets_folder()
        names = [*os.environ, *(file.name for file in folder.iterdir())] if folder else list(os.environ)
        unknown = sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)
        if unknown:
            raise ValueError(f"There is no setting {', '.join(unknown)}; docs/deployment.md lists them all")
        return self

    @model_validator(mode="after")
    def _databases_are_ours(self) -> Self:
        for field in ("database_url", "owner_database_url", "vault_url", "owner_vault_url"):
            address = getattr(self, field)
            if address is not None and not _is_ours(address):
                name = f"{PREFIX}{field.upper()}"
                raise ValueError(f"{name} must be a URL: sqlite:/// and a file, or postgresql+psycopg://...")
        if self.vault_url is None and self.owner_vault_url is not None:
            raise ValueError("REGISTRY_OWNER_VAULT_URL needs REGISTRY_VAULT_URL")
        if self.vault_url == self.database_url:
            raise ValueError("REGISTRY_VAULT_URL must be another database than REGISTRY_DATABASE_URL, or unset")
        return self

    @field_validator("public_url")
    @classmethod
    def _links_begin_with_an_origin(cls, address: str | None) -> str | None:
        """Hosts have no case, and people copy the slash."""
        origin = address and address.lower().removesuffix("/")
        found = _ORIGIN.fullmatch(origin) if origin else None
        if address is not None and (found is None or not 0 < int(found["port"] or 443) <= 65_535):
            raise ValueError("Must be https:// and a host, with a port or not; http:// only of localhost or 127.0.0.1")
        return origin

    @property
    def published_at(self) -> str:
        """What stands before the `/v1` of a link that leaves the registry: nothing where nobody said."""
        return f"{self.public_url}{self.root_path}" if self.public_url else ""

    @property
    def erasures(self) -> Path:
        """The file of the erasure journal."""
        return self.erasure_journal or self.key_file.with_name("registry-erasures.jsonl")

    @property
    def vault_addresses(self) -> tuple[str, str | None]:
        """The vault's database, for the server and for its owner."""
        assert self.vault_url is not None
        return self.vault_url, self.owner_vault_url

    @model_validator(mode="after")
    def _provider_is_whole_and_safe(self) -> Self:
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("REGISTRY_OIDC_ISSUER and REGISTRY_OIDC_AUDIENCE go together")
        if self.oidc_issuer == self.issuer:
            raise ValueError("REGISTRY_OIDC_ISSUER must differ from REGISTRY_ISSUER: it is somebody else")
        for address in (self.oidc_issuer, self.oidc_jwks_url):
            if address and not address.startswith("https://") and self.environment == "production":
                raise ValueError("REGISTRY_OIDC_ISSUER and REGISTRY_OIDC_JWKS_URL must begin with https://")
        return self

    @property
    def allowed_private_networks(self) -> list[IPv4Network | IPv6Network]:
        """`webhook_private_networks`, read."""
        return [ip_network(text.strip()) for text in self.webhook_private_networks.split(",") if text.strip()]

    @model_validator(mode="after")
    def _messages_can_leave(self) -> Self:
        try:
            self.allowed_private_networks  # noqa: B018 - read once, to see that it can be
        except ValueError:
            raise ValueError("REGISTRY_WEBHOOK_PRIVATE_NETWORKS must be networks such as 10.20.0.0/16") from None
        if (self.smtp_host is None) != (self.smtp_from is None):
            raise ValueError("REGISTRY_SMTP_HOST and REGISTRY_SMTP_FROM go together")
        if (self.smtp_user is None) != (self.smtp_password is None):
            raise ValueError("REGISTRY_SMTP_USER and REGISTRY_SMTP_PASSWORD go together")
        if self.smtp_user is not None and self.smtp_security == "none":
            raise ValueError("REGISTRY_SMTP_SECURITY must be starttls: a password is not sent in clear")
        return self

    @model_validator(mode="after")
    def _origins_are_exact(self) -> Self:
        schemes = "https" if self.environment == "production" else "https?"
        for origin in self.origins:
            if not re.fullmatch(rf"{schemes}://[a-z0-9.-]+(:[0-9]{{1,5}})?", origin):
                raise ValueError("REGISTRY_CORS_ORIGINS holds exact origins, https:// and lower case, without a path")
        return self

    @property
    def origins(self) -> list[str]:
        """The origins of `cors_origins`, one by one."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @model_validator(mode="after")
    def _production_is_strict(self) -> Self:
        if self.environment != "production":
            return self
        if self.access_token_seconds > MAX_PRODUCTION_TOKEN_SECONDS:
            raise ValueError(
                f"REGISTRY_ACCESS_TOKEN_SECONDS may be at most {MAX_PRODUCTION_TOKEN_SECONDS} in production"
            )
        if self.argon2_memory_kib < 19_456:
            raise ValueError("REGISTRY_ARGON2_MEMORY_KIB may not be under 19456 in production")
        if self.sqlite_synchronous != "FULL":
            raise ValueError("REGISTRY_SQLITE_SYNCHRONOUS must be FULL in production: a 2xx means durably stored")
        return self
