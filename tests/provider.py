"""An OpenID Connect provider on loopback: real HTTP, real keys, and a switch for everything it can do wrong."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jws

AUDIENCE = "registry"


@dataclass
class Key:
    kid: str
    algorithm: str
    pem: str

    @property
    def public(self) -> dict[str, Any]:
        key = jwk.construct(self.pem, self.algorithm).public_key().to_dict()
        return {**key, "kid": self.kid, "use": "sig", "alg": self.algorithm}


def new_key(algorithm: str = "RS256", bits: int = 2048) -> Key:
    private = rsa.generate_private_key(65537, bits) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = private.private_bytes(encoding, form, serialization.NoEncryption())
    return Key(uuid4().hex, algorithm, pem.decode())


usual_key = cache(new_key)
"""Made once: making an RSA key takes a while."""


@dataclass
class OutsideProvider:
    """What it publishes, and how often it was asked."""

    url: str = ""
    keys: list[Key] = field(default_factory=lambda: [usual_key("RS256"), usual_key("ES256")])
    asked: Counter[str] = field(default_factory=Counter)
    published: list[dict[str, Any]] | None = None
    discovery: dict[str, Any] = field(default_factory=dict)
    redirects_to: str | None = None
    padding: int = 0
    up: bool = True

    def token(self, key: Key | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """An access token as such a provider gives it; a claim of None is left out."""
        chosen, issued = key or self.keys[0], int(time.time())
        payload = {"iss": self.url, "aud": AUDIENCE, "sub": "s-1", "iat": issued, "exp": issued + 300, **claims}
        kept = {name: value for name, value in payload.items() if value is not None}
        signed: str = jws.sign(kept, chosen.pem, {"kid": chosen.kid, **(header or {})}, chosen.algorithm)
        return signed

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked[path] += 1
        if not self.up:
            return 500, {}, b""
        if self.redirects_to:
            return 302, {"Location": self.redirects_to}, b""
        if path == "/.well-known/openid-configuration":
            told = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.discovery}
        else:
            keys = [key.public for key in self.keys] if self.published is None else self.published
            told = {"keys": keys, "padding": "x" * self.padding}
        return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()


@contextmanager
def running_provider() -> Iterator[OutsideProvider]:
    provider = OutsideProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = provider.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the library
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
