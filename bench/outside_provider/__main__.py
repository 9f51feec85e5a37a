"""`python -m bench.outside_provider`: tokens of `oauth2-mock-server` are accepted, edited ones are refused.

Needs node and npm, which fetches the provider. Exit code 1 if a token is wrongly accepted or refused.
"""

import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx

from tests.server import LiveServer, running_server

HERE, AUDIENCE = Path(__file__).parent, "registry"
TOKENS, EDITS = 20, 99


def main() -> int:
    subject = uuid4().hex
    with tempfile.TemporaryDirectory() as folder, _provider(Path(folder), subject) as issuer:
        settings = {"REGISTRY_OIDC_ISSUER": issuer, "REGISTRY_OIDC_AUDIENCE": AUDIENCE}
        with running_server(Path(folder), f"sqlite:///{folder}/registry.db", 1, **settings) as server:
            _link(server, subject)
            genuine, edited = _ask(server, issuer)
    print(f"genuine: {dict(genuine)}\nedited: {dict(edited)}")
    return 0 if set(genuine) == {200} and set(edited) == {401} else 1


@contextmanager
def _provider(folder: Path, subject: str) -> Iterator[str]:
    """The provider's issuer, while it serves."""
    place = Path(shutil.copytree(HERE, folder / "provider"))
    subprocess.run(["npm", "ci", "--silent"], cwd=place, check=True, stderr=subprocess.DEVNULL)
    with subprocess.Popen(
        ["node", "serve.mjs", AUDIENCE, subject], cwd=place, stdout=subprocess.PIPE, text=True
    ) as node:
        try:
            assert node.stdout is not None
            yield node.stdout.readline().strip()
        finally:
            node.terminate()


def _link(server: LiveServer, subject: str) -> None:
    with httpx.Client(base_url=server.base_url, trust_env=False) as client:
        credentials = {"username": server.admin_username, "password": server.admin_password}
        token = client.post("/v1/auth/sessions", json=credentials).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        me = client.get("/v1/me").json()["id"]
        linked = client.post(f"/v1/users/{me}/identity", json={"subject": subject, "reason": "tried out"})
        linked.raise_for_status()


def _ask(server: LiveServer, issuer: str) -> tuple[Counter[int], Counter[int]]:
    """Statuses of genuine tokens, and of tokens of which one character was exchanged."""
    genuine: Counter[int] = Counter()
    edited: Counter[int] = Counter()
    with httpx.Client(trust_env=False) as client:

        def ask(token: str) -> int:
            return client.get(f"{server.base_url}/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code

        for _ in range(TOKENS):
            answer = client.post(f"{issuer}/token", data={"grant_type": "client_credentials"})
            token = answer.json()["access_token"]
            genuine[ask(token)] += 1
            for _ in range(EDITS):
                place = random.randrange(len(token))
                other = random.choice("ABCDabcd0123-_")
                if token[place] not in {other, "."}:
                    edited[ask(token[:place] + other + token[place + 1 :])] += 1
    return genuine, edited


if __name__ == "__main__":
    sys.exit(main())
