"""One short text by e-mail, through the deployment's own mail server."""

import smtplib
import socket
import ssl
import threading
import time
from contextlib import suppress
from email.message import EmailMessage
from email.utils import format_datetime

from app.models.base import now
from app.services.notifications.webhooks import Undelivered
from app.settings import Settings


def mail(settings: Settings, address: str, message_id: str, subject: str, text: str) -> None:
    """Hand one message to the mail server within the timeout, which counts everything. Raises Undelivered."""
    if settings.smtp_host is None or settings.smtp_from is None:
        raise Undelivered("mail_not_configured")
    domain = settings.smtp_from.rpartition("@")[2]
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = settings.smtp_from, address, subject
    message["Date"], message["Message-ID"] = format_datetime(now()), f"<{message_id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday note answers
    message.set_content(text)
    until = time.monotonic() + settings.delivery_timeout_seconds
    try:
        _hand_over(settings, message, domain)
    except OSError as failed:
        raise Undelivered("timeout" if time.monotonic() >= until else _kind(failed)) from None


def _kind(failed: OSError) -> str:
    if isinstance(failed, TimeoutError):
        return "timeout"
    if isinstance(failed, ssl.SSLError):
        return "tls_failed"
    if isinstance(failed, smtplib.SMTPRecipientsRefused):
        return f"smtp_{next(iter(failed.recipients.values()))[0]}"
    if isinstance(failed, smtplib.SMTPResponseException):
        return f"smtp_{failed.smtp_code}"
    return "connection_lost" if isinstance(failed, smtplib.SMTPServerDisconnected) else "connection_failed"


def _hand_over(settings: Settings, message: EmailMessage, domain: str) -> None:
    assert settings.smtp_host is not None
    timeout = settings.delivery_timeout_seconds
    server = _Bounded(settings.smtp_host, settings.smtp_port, local_hostname=domain, timeout=timeout)
    try:
        if settings.smtp_security == "starttls":
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user is not None and settings.smtp_password is not None:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        server.send_message(message)
        with suppress(OSError):  # it has the message, however it takes its leave
            server.quit()
    finally:
        server.close()


class _Bounded(smtplib.SMTP):
    """A conversation whose timeout counts everything: a server that says a little now and then keeps it open no
    longer."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """In place of smtplib's own, whose timeout counts for each address, and for each read."""
        until = time.monotonic() + timeout
        made = _connected(host, port, until)
        self._line = made.dup()  # the same connection, also when TLS has taken the socket over
        self._alarm = threading.Timer(until - time.monotonic(), self._hang_up)
        self._alarm.daemon = True
        self._alarm.start()
        return made

    def _hang_up(self) -> None:
        with suppress(OSError):  # the other side, or the end, was quicker
            self._line.shutdown(socket.SHUT_RDWR)  # which wakes the thread that reads; closing would not

    def close(self) -> None:
        self._alarm.cancel()
        self._line.close()
        super().close()


def _connected(host: str, port: int, until: float) -> socket.socket:
    refused: OSError = TimeoutError()
    for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            return socket.create_connection((str(place[0]), port), left)
        except OSError as failed:
            refused = failed
    raise refused
