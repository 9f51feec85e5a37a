"""Where messages may go: addresses that are looked at before anything is sent, TLS that is checked, and e-mail."""

import asyncio
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from app.models.notification import EventType
from app.services.notifications.delivering import BATCH
from app.services.notifications.webhooks import Undelivered, may_connect, new_secret, post
from app.settings import Settings
from tests.office import LOOPBACK, Office, require_one_delivered_beside_a_batch_that_hangs
from tests.outbox_cases import a_subscription
from tests.receivers import MailServer, certified, running_mail_server, running_receiver
from tests.world import World

NAME = "receiver.test"


def settings(**changes: Any) -> Settings:
    return Settings(environment="demo", delivery_timeout_seconds=3, **changes)


def outcome(url: str, **changes: Any) -> str:
    """What becomes of a message to this address: `delivered`, or the kind of failure."""
    try:
        asyncio.run(post(settings(**changes), url, "m", b"{}", new_secret(), 1))
    except Undelivered as failed:
        return failed.kind
    return "delivered"


NOT_PUBLIC = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),  # noqa: S104 - not bound to
    *("100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::1", "2002:a00:1::", "fe80::1", "fc00::1", "fd12:3456::1"),
    *("ff02::1", "2001:db8::1", "100::1", "fec0::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
)
PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808")


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not may_connect(settings(), ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert may_connect(settings(), ip_address(address))


def test_an_allowed_private_network_opens_itself_and_nothing_beside_it() -> None:
    hospital = settings(webhook_private_networks="10.20.0.0/16, fd00:1::/64")
    for address, allowed in (
        ("10.20.255.1", True),
        ("::ffff:10.20.0.1", True),
        ("fd00:1::7", True),
        ("10.21.0.1", False),
        ("127.0.0.1", False),
        ("fd00:2::7", False),
        ("8.8.8.8", True),
    ):
        assert may_connect(hospital, ip_address(address)) is allowed, address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0"])
def test_no_spelling_of_loopback_is_connected_to(host: str) -> None:
    with running_receiver() as receiver:
        assert outcome(receiver.url.replace("127.0.0.1", host)) in {"address_refused", "address_unusable"}
        assert receiver.got == []


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What a name resolves to: one list of addresses for each time that it is asked for, the last one for good."""
    answers: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in answers:
            return real(host, port, *rest, **more)
        told = answers[name].pop(0) if len(answers[name]) > 1 else answers[name][0]
        return [entry for address in told for entry in real(address, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return answers


def test_a_name_that_means_a_private_address_too_is_refused(resolver: dict[str, list[list[str]]]) -> None:
    resolver[NAME] = [["93.184.216.34", "10.0.0.1"]]
    assert outcome(f"https://{NAME}/") == "address_refused"


def test_a_name_that_changes_after_it_was_looked_at_changes_nothing(resolver: dict[str, list[list[str]]]) -> None:
    """DNS rebinding: the second answer is another receiver's, which must get nothing."""
    with running_receiver(name=NAME) as receiver:
        resolver[NAME] = [["127.0.0.1"], ["127.0.0.2"]]
        assert outcome(receiver.url, webhook_private_networks="127.0.0.1/32") == "delivered"
        assert receiver.got[0].headers["host"] == receiver.url.split("/")[2]
        assert outcome(receiver.url, webhook_private_networks="127.0.0.1/32") == "address_refused"
        assert len(receiver.got) == 1


def test_the_next_address_of_a_name_is_tried_when_the_first_is_away(resolver: dict[str, list[list[str]]]) -> None:
    with running_receiver(name=NAME) as receiver:
        resolver[NAME] = [["127.0.0.7", "127.0.0.1"]]
        assert outcome(receiver.url, webhook_private_networks=LOOPBACK) == "delivered"
        assert len(receiver.got) == 1


def test_a_name_that_nobody_knows_is_no_more_than_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert outcome("https://no-such-name.invalid/") == "name_unknown"


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running_receiver() as receiver:
        assert outcome(receiver.url, webhook_private_networks=LOOPBACK) == "delivered"


def test_production_sends_to_https_only() -> None:
    with running_receiver() as receiver:
        with pytest.raises(Undelivered, match="not_https"):
            asyncio.run(post(Settings(webhook_private_networks=LOOPBACK), receiver.url, "m", b"{}", new_secret(), 1))
        assert receiver.got == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certified(tmp_path_factory.mktemp("tls"), NAME, "127.0.0.1", "localhost")


def test_https_goes_to_whom_the_certificate_names(
    resolver: dict[str, list[list[str]]], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver[NAME] = resolver["other.test"] = [["127.0.0.1"]]
    with running_receiver(certificate, NAME) as receiver:
        assert outcome(receiver.url, webhook_private_networks=LOOPBACK) == "tls_failed"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert outcome(receiver.url, webhook_private_networks=LOOPBACK) == "delivered"
        other = receiver.url.replace(NAME, "other.test")
        assert outcome(other, webhook_private_networks=LOOPBACK) == "tls_failed"
        assert len(receiver.got) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook_private_networks": "10.0.0.1/8"},
        {"webhook_private_networks": "everywhere"},
        {"smtp_host": "mail.example.org"},
        {"smtp_from": "registry@example.org"},
        {"smtp_host": "m", "smtp_from": "a@b.c", "smtp_user": "u"},
        {"smtp_host": "m", "smtp_from": "a@b.c", "smtp_user": "u", "smtp_password": "p", "smtp_security": "none"},
    ],
)
def test_settings_that_contradict_themselves_stop_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


def test_the_mail_servers_password_is_shown_nowhere() -> None:
    known = settings(smtp_host="m", smtp_from="a@b.c", smtp_user="u", smtp_password="Zq-marker-81")
    assert "marker" not in repr(known) + str(known.model_dump())


# E-mail


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with running_mail_server() as server:
        yield server


def mailing(world: World, server: MailServer, **changes: Any) -> Office:
    """An office with one subscription by e-mail."""
    usual = {"smtp_host": "127.0.0.1", "smtp_port": server.port, "smtp_from": "registry@hospital.example"}
    office = Office(world, **{**usual, "smtp_security": "none", **changes})
    state = world.registry.app.state
    demo, state.settings = state.settings, office.settings
    try:
        a_subscription(world, kind="email", address="safety@example.org")
    finally:
        state.settings = demo
    return office


def test_a_mail_is_one_short_text_without_detail(world: World, mail_server: MailServer) -> None:
    office, subject = mailing(world, mail_server), uuid4()
    office.tell(subject)
    assert office.courier().deliver() == 1
    (row,) = office.deliveries()
    (got,) = mail_server.got
    assert row.state == "delivered"
    assert mail_server.recipients == ["safety@example.org"]
    assert {name: got[name] for name in ("From", "To", "Subject", "Message-ID", "Auto-Submitted")} == {
        "From": "registry@hospital.example",
        "To": "safety@example.org",
        "Subject": "extract.ready",
        "Message-ID": f"<{row.id}@hospital.example>",
        "Auto-Submitted": "auto-generated",
    }
    lines = dict(line.split(": ") for line in str(got.get_payload()).split("\r\n") if line)
    assert lines.keys() == {"delivery", "type", "subject", "link", "occurred_at"}
    assert (lines["subject"], lines["link"]) == (str(subject), f"/v1/extracts/{subject}")
    assert world.study not in got.as_string()


def test_a_link_leads_to_the_registrys_public_address_where_it_is_known(world: World, mail_server: MailServer) -> None:
    office, subject = mailing(world, mail_server), uuid4()
    office.settings = office.settings.model_copy(
        update={"public_url": "https://trials.example.org", "root_path": "/registry"}
    )
    office.tell(subject)
    assert office.courier().deliver() == 1
    (got,) = mail_server.got
    lines = bytes(got.get_payload(decode=True)).decode().splitlines()
    assert f"link: https://trials.example.org/registry/v1/extracts/{subject}" in lines


@pytest.mark.parametrize(
    "address",
    [
        "http://registry.example.org",
        "https://registry.example.org/registry",
        "https://registry.example.org?key=1",
        "https://user:word@registry.example.org",
        "https://..",
        "https://registry_of.example.org",
        "https://registry.example.org:99999",
        "https://registry.example.org:0",
        "https://registry.example.org//",
    ],
)
def test_a_public_address_in_clear_or_with_more_than_the_host_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match=r"public_url\n.*https:// and a host"):
        Settings(public_url=address)


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("https://Registry.Example.org/", "https://registry.example.org"),
        ("https://registry.example.org:8443", "https://registry.example.org:8443"),
        ("http://LOCALHOST:8000/", "http://localhost:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
def test_a_public_address_is_taken_as_people_type_it(typed: str, taken: str) -> None:
    assert Settings(public_url=typed).published_at == taken


@pytest.mark.parametrize(("act", "kind"), [(451, "smtp_451"), (554, "smtp_554"), ("cut", "connection_lost")])
def test_a_mail_server_that_fails_gets_the_same_mail_again(
    world: World, mail_server: MailServer, act: Any, kind: str
) -> None:
    office = mailing(world, mail_server)
    mail_server.act = lambda number: act if number == 1 else 250
    office.tell(uuid4())
    office.courier().deliver()
    assert office.deliveries()[0].last_error == kind
    office.clock.ahead += office.deliveries()[0].next_attempt_at - office.deliveries()[0].created_at
    office.courier().deliver()
    (row,) = office.deliveries()
    assert (row.state, row.attempts) == ("delivered", 2)
    assert [got["Message-ID"] for got in mail_server.got] == [f"<{row.id}@hospital.example>"] * 2


def test_a_mail_server_without_starttls_gets_nothing(world: World, mail_server: MailServer) -> None:
    office = mailing(world, mail_server, smtp_security="starttls")
    office.tell(uuid4())
    office.courier().deliver()
    assert office.deliveries()[0].state == "pending"
    assert mail_server.got == []


def test_the_password_goes_through_tls_that_was_checked(
    world: World, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Settings(smtp_host="m", smtp_from="a@b.c", smtp_user="registry", smtp_password="Zq-marker-82")  # type: ignore[arg-type]
    secure = {"smtp_security": "starttls", "smtp_user": "registry", "smtp_password": known.smtp_password}
    with running_mail_server(certificate) as server:
        office = mailing(world, server, **secure)
        office.tell(uuid4())
        office.courier().deliver()
        assert office.deliveries()[0].last_error == "tls_failed"
        assert not any(line.startswith("AUTH") for _, line in server.dialogue)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        office.clock.ahead += office.deliveries()[0].next_attempt_at - office.deliveries()[0].created_at
        office.courier().deliver()
        assert office.deliveries()[0].state == "delivered"
        spoken = [(secure, line.split(" ")[0].upper()) for secure, line in server.dialogue if line]
        assert (True, "AUTH") in spoken
        assert {verb for secure, verb in spoken if not secure} <= {"EHLO", "STARTTLS", "QUIT"}


def test_a_mail_server_that_is_away_is_no_more_than_a_failure(world: World) -> None:
    with running_mail_server() as server:
        office = mailing(world, server)
    office.tell(uuid4())
    office.courier().deliver()
    assert office.deliveries()[0].last_error == "connection_failed"


def test_a_mail_server_that_never_comes_to_an_end_costs_the_timeout_and_holds_up_nobody(
    world: World, mail_server: MailServer
) -> None:
    """Each line comes well before the timeout, and the next one as well."""
    office = mailing(world, mail_server, delivery_timeout_seconds=1.0)
    mail_server.drips_at = "EHLO"
    with running_receiver() as healthy:
        a_subscription(world, address=healthy.url, event_types=["safety_signal.raised"])
        for _ in range(BATCH):
            office.tell(uuid4())
        office.tell(uuid4(), EventType.safety_signal_raised)
        require_one_delivered_beside_a_batch_that_hangs(office, healthy, left=1)


def test_a_mail_that_was_taken_is_delivered_however_the_mail_server_takes_its_leave(
    world: World, mail_server: MailServer
) -> None:
    office = mailing(world, mail_server, delivery_timeout_seconds=1.0)
    mail_server.drips_at = "QUIT"
    office.tell(uuid4())
    office.courier().deliver()
    assert (office.deliveries()[0].state, len(mail_server.got)) == ("delivered", 1)
