"""Webhooks as Standard Webhooks 1.0 describes them: one signed POST, to an address that was looked at first.

An address comes from a person and its name from the DNS, so it is resolved here, refused unless it is public (or in a
network that the deployment allows), and that very address is connected to: a name that changes in between changes
nothing. Proxies of the environment are ignored, since a proxy would resolve the name again.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import socket
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx

from app.settings import Settings

SECRET_BYTES = 32
_PREFIX = "whsec_"
_NAT64, _GLOBAL_UNICAST = IPv6Network("64:ff9b::/96"), IPv6Network("2000::/3")
"""RFC 6052, and RFC 4291, section 2.4: outside the latter lie networks of old that no list of private ones names."""


class Undelivered(Exception):
    """A message did not arrive. `kind` is all that is kept of why."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def written_secret(secret: bytes) -> str:
    """A secret as receivers are given it."""
    return _PREFIX + base64.b64encode(secret).decode()


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of Webhook-Signature."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


async def post(settings: Settings, url: str, message_id: str, body: bytes, secret: bytes, timestamp: int) -> None:
    """Deliver one message within the timeout, which counts everything. Raises Undelivered."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "research-registry",
        "Webhook-Id": message_id,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": signature(secret, message_id, timestamp, body),
    }
    try:
        async with asyncio.timeout(settings.delivery_timeout_seconds):
            status = await _status(settings, httpx.URL(url), headers, body)
    except TimeoutError:
        raise Undelivered("timeout") from None
    except ssl.SSLError:
        raise Undelivered("tls_failed") from None
    except (httpx.InvalidURL, UnicodeError):
        raise Undelivered("address_unusable") from None
    except (httpx.HTTPError, OSError) as failed:
        raise Undelivered(_kind(failed)) from None
    if not 200 <= status < 300:
        raise Undelivered(f"http_{status}")


async def _status(settings: Settings, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> int:
    if url.scheme != "https" and settings.environment == "production":
        raise Undelivered("not_https")
    host = url.raw_host.decode()
    context = ssl.create_default_context() if url.scheme == "https" else False
    refused: Exception = Undelivered("name_unknown")
    async with httpx.AsyncClient(verify=context, timeout=None, follow_redirects=False, trust_env=False) as client:  # noqa: S113 - post() bounds the whole
        for address in await _addresses(settings, host, url.port or (443 if url.scheme == "https" else 80)):
            request = client.build_request(
                "POST",
                url.copy_with(host=str(address)),
                headers={**headers, "Host": url.netloc.decode()},
                content=body,
                extensions={"sni_hostname": host},
            )
            try:
                answer = await client.send(request, stream=True)
            except httpx.ConnectError as failed:
                refused = failed
                continue
            await answer.aclose()  # the body is not read
            return answer.status_code
    raise refused


async def _addresses(settings: Settings, host: str, port: int) -> list[IPv4Address | IPv6Address]:
    """The addresses of a host. Raises Undelivered when one of them may not be connected to."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        raise Undelivered("name_unknown") from None
    addresses = [ip_address(str(place[0])) for *_, place in found]
    if not all(may_connect(settings, address) for address in addresses):
        raise Undelivered("address_refused")
    return list(dict.fromkeys(addresses))


def may_connect(settings: Settings, address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is public, or in a network that the deployment allows."""
    meant = _meant(address)
    if any(meant in network for network in settings.allowed_private_networks):
        return True
    if isinstance(meant, IPv6Address) and meant not in _GLOBAL_UNICAST:
        return False
    return meant.is_global and not (meant.is_multicast or meant.is_reserved)


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address within an IPv6 one, since that is where a packet ends up."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None) or address


def _kind(failed: Exception) -> str:
    cause: BaseException | None = failed
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "tls_failed"
        cause = cause.__cause__ or cause.__context__
    return "connection_failed" if isinstance(failed, httpx.ConnectError | OSError) else "connection_lost"
