"""A webhook receiver and a mail server on loopback: real sockets, and a switch for what they do wrong."""

import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.models.base import now

Act = int | Literal["cut", "hang"]
"""A status; or `cut`: keep the message, then break the connection; or `hang`: keep it and never answer."""


@dataclass
class Received:
    id: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What arrived, and how it answers the n-th arrival (from 1) of a delivery id."""

    url: str = ""
    act: Callable[[str, int], Act] = lambda _id, _number: 204
    got: list[Received] = field(default_factory=list)
    arrived: Callable[[], None] = lambda: None
    released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, received: Received) -> Act:
        with self._lock:
            self.got.append(received)
            self.arrived()
            return self.act(received.id, sum(one.id == received.id for one in self.got))

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.got]


@contextmanager
def running_receiver(certificate: tuple[Path, Path] | None = None, name: str = "127.0.0.1") -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {key.lower(): value for key, value in self.headers.items()}
            act = receiver.keep(Received(headers["webhook-id"], headers, body))
            if act == "hang":
                receiver.released.wait(30)
            if isinstance(act, str):
                self.close_connection = True
                return
            self.send_response(act)
            if 300 <= act < 400:
                self.send_header("Location", f"{receiver.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the library
            """Say nothing."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.url = f"{'https' if certificate else 'http'}://{name}:{server.server_address[1]}/hook"
    with _served(server):
        try:
            yield receiver
        finally:
            receiver.released.set()


class Quiet(ThreadingHTTPServer):
    """Clients that go away are what is tested."""

    request_queue_size = 64
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class MailServer:
    """What was handed over, and how it answers the n-th time (from 1) that a message comes."""

    port: int = 0
    act: Callable[[int], Act] = lambda _number: 250
    got: list[Message] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    dialogue: list[tuple[bool, str]] = field(default_factory=list)
    """Each line of a client, and whether it came encrypted."""

    drips_at: str = ""
    """The command that it answers with a line every tenth of a second, for ever."""


@contextmanager
def running_mail_server(certificate: tuple[Path, Path] | None = None) -> Iterator[MailServer]:
    mail = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        secure = False

        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            self.say("220 ready")
            while line := self.rfile.readline().decode().strip():
                mail.dialogue.append((self.secure, line))
                verb = line.partition(" ")[0].upper()
                while verb == mail.drips_at:
                    self.say("250-slow")
                    time.sleep(0.1)
                if verb == "STARTTLS" and certificate:
                    self.say("220 go ahead")
                    self._encrypt(certificate)
                elif verb == "DATA":
                    self.say("354 go on")
                    act = self._kept()
                    if isinstance(act, str):
                        return
                    self.say(f"{act} done")
                elif verb == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self._usual(verb, line)

        def _usual(self, verb: str, line: str) -> None:
            if verb == "EHLO":
                offered = ["STARTTLS"] if certificate and not self.secure else ["AUTH PLAIN"] if self.secure else []
                lines = ["here", *offered]
                for number, text in enumerate(lines, 1):
                    self.say(f"250{' ' if number == len(lines) else '-'}{text}")
            elif verb == "AUTH":
                self.say("235 known")
            elif verb in {"MAIL", "RCPT", "RSET"}:
                if verb == "RCPT":
                    mail.recipients.append(line.partition("<")[2].partition(">")[0])
                self.say("250 fine")
            else:
                self.say("502 not here")

        def _encrypt(self, certificate: tuple[Path, Path]) -> None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile, self.secure = self.connection.makefile("rb"), _Writer(self.connection), True

        def _kept(self) -> Act:
            raw = b""
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                raw += line
            mail.got.append(message_from_bytes(raw))
            return mail.act(len(mail.got))

    server = _MailSockets(("127.0.0.1", 0), Handler)
    mail.port = server.server_address[1]
    with _served(server):
        yield mail


class _MailSockets(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


class _Writer:
    def __init__(self, connection: Any) -> None:
        self._connection, self.closed = connection, False

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)

    def flush(self) -> None:
        """Everything was sent."""

    def close(self) -> None:
        self._connection.close()


def certified(folder: Path, *names: str) -> tuple[Path, Path]:
    """A certificate that vouches for itself, for these names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver of the tests")])
    places: list[x509.GeneralName] = [
        x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
    ]
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private
