"""One short text by e-mail, through the deployment's own mail server."""

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime

from app.models.base import now
from app.services.webhooks import Undelivered
from app.settings import Settings


def mail(settings: Settings, address: str, message_id: str, subject: str, text: str) -> None:
    """Hand one message to the mail server. Raises Undelivered."""
    if settings.smtp_host is None or settings.smtp_from is None:
        raise Undelivered("mail_not_configured")
    domain = settings.smtp_from.rpartition("@")[2]
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = settings.smtp_from, address, subject
    message["Date"], message["Message-ID"] = format_datetime(now()), f"<{message_id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday note answers
    message.set_content(text)
    try:
        _hand_over(settings, message, domain)
    except TimeoutError:
        raise Undelivered("timeout") from None
    except ssl.SSLError:
        raise Undelivered("tls_failed") from None
    except smtplib.SMTPRecipientsRefused as refused:
        raise Undelivered(f"smtp_{next(iter(refused.recipients.values()))[0]}") from None
    except smtplib.SMTPResponseException as refused:
        raise Undelivered(f"smtp_{refused.smtp_code}") from None
    except (smtplib.SMTPException, OSError) as failed:
        lost = isinstance(failed, smtplib.SMTPServerDisconnected)
        raise Undelivered("connection_lost" if lost else "connection_failed") from None


def _hand_over(settings: Settings, message: EmailMessage, domain: str) -> None:
    assert settings.smtp_host is not None
    timeout = settings.delivery_timeout_seconds
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, local_hostname=domain, timeout=timeout) as server:
        if settings.smtp_security == "starttls":
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user is not None and settings.smtp_password is not None:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        server.send_message(message)
