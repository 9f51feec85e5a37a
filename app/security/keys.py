"""The keyring: one file with every secret of a deployment, never in the database and never in the environment.

`signing` keys sign access tokens (ES256), `kek` keys wrap the vault's data keys, and the derivation key feeds
HKDF (RFC 5869) for everything else, one purpose each, so that no key is used twice.
"""

import base64
import hmac
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import CannotGoOn
from app.settings import Settings

Purpose = Literal[
    "blind-index",
    "cursor",
    "erasure",
    "extract",
    "idempotency",
    "secret-digest",
    "etag",
    "sync",
    "throttle",
    "totp",
    "webhook-secret",
]
KEY_BYTES = 32
RELOAD_SECONDS = 2.0
"""How long a worker goes on with its keys before it looks whether the key file was replaced."""


class KeysUnusable(CannotGoOn):
    """The key file is missing, open to others, weak or not for this environment; the message says what to do."""


def _strong(text: str) -> str:
    raw = base64.b64decode(text, validate=True)
    if len(raw) != KEY_BYTES or len(set(raw)) < 8:
        raise ValueError(f"a key is {KEY_BYTES} random bytes in base64")
    return text


Secret = Annotated[str, AfterValidator(_strong)]


class Key(BaseModel):
    """One key of a list; `made_at` and `retired_at` are set by rotation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kid: str
    made_at: AwareDatetime | None = None
    retired_at: AwareDatetime | None = None


def _on_p256(pem: str) -> str:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a signing key is a private key on P-256 (RFC 7518, section 3.4)")
    return pem


class SigningKey(Key):
    private_pem: Annotated[str, AfterValidator(_on_p256)]


def _public(pem: str) -> str:
    key = serialization.load_pem_public_key(pem.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a past key is the public half of a key on P-256")
    return pem


class PastKey(Key):
    """What is left of a signing key that was retired: enough to verify the checkpoints that it signed."""

    public_pem: Annotated[str, AfterValidator(_public)]


class WrappingKey(Key):
    key: Secret

    @property
    def raw(self) -> bytes:
        return base64.b64decode(self.key)


class KeyFile(BaseModel):
    """The file's form. The first key of each list is the active one; later ones only verify or decrypt: with
    `retired_at` they were active, without it they are next."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    demo: bool = False
    signing: Annotated[list[SigningKey], Field(min_length=1)]
    kek: Annotated[list[WrappingKey], Field(min_length=1)]
    derivation: Secret
    past: list[PastKey] = []
    """Verify checkpoints of the audit trail, and never a token."""

    @model_validator(mode="after")
    def _kids_differ(self) -> Self:
        for keys in (self.signing, self.kek):
            if len({key.kid for key in keys}) < len(keys):
                raise ValueError("two keys of one list have the same kid")
        return self


class Keyring:
    """The keys in memory, ready for use. With `reread`, a replaced key file is noticed within RELOAD_SECONDS."""

    def __init__(self, file: KeyFile, reread: Callable[[], KeyFile] | None = None) -> None:
        self._file, self._reread = file, reread
        self._look_at = time.monotonic() + RELOAD_SECONDS
        self._looking = threading.Lock()
        self._derivation = base64.b64decode(file.derivation)
        self._derived: dict[str, bytes] = {}
        self._keyed: dict[str, hmac.HMAC] = {}

    @property
    def signing(self) -> list[SigningKey]:
        """The same list until the file is replaced."""
        return self._current().signing

    @property
    def kek(self) -> dict[str, bytes]:
        return {key.kid: key.raw for key in self._current().kek}

    @property
    def active_kek(self) -> str:
        return self._current().kek[0].kid

    def _current(self) -> KeyFile:
        """The file as it is. One thread looks, the others go on. A file that cannot be used changes nothing."""
        if self._reread and time.monotonic() >= self._look_at and self._looking.acquire(blocking=False):
            try:
                file = self._reread()
                if file != self._file and file.derivation == self._file.derivation:
                    self._file = file
            except KeysUnusable:
                pass
            finally:
                self._look_at = time.monotonic() + RELOAD_SECONDS
                self._looking.release()
        return self._file

    def derived(self, purpose: Purpose) -> bytes:
        """32 bytes for one purpose, from the derivation key."""
        if purpose not in self._derived:
            kdf = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=f"registry/{purpose}/1".encode())
            self._derived[purpose] = kdf.derive(self._derivation)
        return self._derived[purpose]

    def digest(self, purpose: Purpose, *parts: bytes) -> str:
        """Keyed SHA-256, hex. Parts are separated, so that no two lists of parts give the same input."""
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        if purpose not in self._keyed:
            self._keyed[purpose] = hmac.new(self.derived(purpose), digestmod="sha256")
        keyed = self._keyed[purpose].copy()  # a copy costs half of what setting the key again would
        keyed.update(message)
        return keyed.hexdigest()


def new_key_file(demo: bool = False) -> KeyFile:
    """Fresh random keys."""
    return KeyFile(demo=demo, signing=[new_signing_key()], kek=[new_wrapping_key()], derivation=_fresh())


def new_signing_key(made_at: datetime | None = None) -> SigningKey:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return SigningKey(kid=secrets.token_hex(8), private_pem=pem.decode(), made_at=made_at)


def past_key(key: SigningKey) -> PastKey:
    private = serialization.load_pem_private_key(key.private_pem.encode(), password=None)
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PastKey(kid=key.kid, made_at=key.made_at, retired_at=key.retired_at, public_pem=pem.decode())


def new_wrapping_key(made_at: datetime | None = None) -> WrappingKey:
    return WrappingKey(kid=secrets.token_hex(8), key=_fresh(), made_at=made_at)


def _fresh() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def write_key_file(path: Path, file: KeyFile) -> None:
    """Write a new key file that only its owner can read. Never overwrites: lost keys are lost data. Raises
    KeysUnusable."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(file.model_dump_json(indent=2))
    except OSError as error:
        raise KeysUnusable(
            f"Key file {path} cannot be made ({error.strerror}). Its folder must exist and be this user's."
        ) from None


def load_keyring(settings: Settings) -> Keyring:
    """The keyring of this deployment. Raises KeysUnusable: a registry never starts on missing or weak keys."""
    return Keyring(read_key_file(settings), lambda: read_key_file(settings))


def read_key_file(settings: Settings) -> KeyFile:
    """The key file, checked. Raises KeysUnusable."""
    path = settings.key_file
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        raise KeysUnusable(
            f"Key file {path} is not there. Check REGISTRY_KEY_FILE and the disk. If the registry was in use before, "
            "restore the file from its copy. If it is new, run: registry init"
        ) from None
    except PermissionError:
        raise KeysUnusable(
            f"Key file {path} cannot be read by this user. Run this as the user who serves, who owns the file; "
            "commands that also need the role of the tables' owner are run as root (docs/deployment.md, Keys)."
        ) from None
    except OSError as error:
        raise KeysUnusable(
            f"Key file {path} cannot be read ({error.strerror}). Check its path and its disk, or restore it from its "
            "copy."
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeysUnusable(f"Key file {path} is open to other users. Run: chmod 600 {path}")
    try:
        file = KeyFile.model_validate(json.loads(content))
    except (ValueError, ValidationError):
        raise KeysUnusable(f"Key file {path} is damaged or holds weak keys. Restore it from its copy.") from None
    if file.demo and settings.environment != "demo":
        raise KeysUnusable(f"Key file {path} belongs to a demo. Make a real one with `registry init`.")
    return file
