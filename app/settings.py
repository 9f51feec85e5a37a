"""Settings: read once from the environment (`REGISTRY_...`), handed down, never imported as a global."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MAX_PRODUCTION_TOKEN_SECONDS = 900


class Settings(BaseSettings):
    """How one deployment runs. There are no default secrets: keys come from `key_file` alone."""

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", extra="ignore", frozen=True)

    environment: Literal["production", "demo"] = "production"
    """`demo` allows long-lived tokens and a demo key file; anything else is production."""

    database_url: str = "sqlite:///registry.db"
    """SQLAlchemy URL; `postgresql+psycopg://...` in production."""

    key_file: Path = Path("registry-keys.json")
    """JSON file with signing, encryption and derivation keys; made by `registry init`, mode 0600."""

    issuer: str = "research-registry"
    audience: str = "research-registry-api"

    access_token_seconds: Annotated[int, Field(ge=30, le=86_400)] = MAX_PRODUCTION_TOKEN_SECONDS
    refresh_token_seconds: Annotated[int, Field(ge=300, le=43_200)] = 43_200

    pool_size: Annotated[int, Field(ge=1, le=64)] = 4
    """Database connections a worker holds; a waiting request gives up after `pool_timeout_seconds` with 503."""

    pool_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    statement_timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 30
    max_body_bytes: Annotated[int, Field(ge=1_024, le=64 * 1024 * 1024)] = 1024 * 1024
    sqlite_synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """FULL: an acknowledged write survives a power cut. NORMAL is for measurements only."""

    grants_cache_seconds: Annotated[float, Field(ge=0, le=10)] = 1.0
    """How long a worker may go on with an account's grants before it looks again: a revocation takes effect on every
    worker within this time."""

    argon2_memory_kib: Annotated[int, Field(ge=8)] = 19_456
    """Memory of one password hash, KiB; OWASP's floor for Argon2id with t=2, p=1."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

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
