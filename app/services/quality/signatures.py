"""Electronic signatures: made with the password and for the content that the signer has read; broken when it
changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Rows, found, visible
from app.errors import Conflict
from app.models.account import Account
from app.models.base import columns, fields_of, now, values
from app.models.sign_in import Totp
from app.models.signature import ContentRead, Signature, SignatureCreate, SignatureRead, SignatureState
from app.services.identity.own_account import require_own_password
from app.services.identity.sign_in import SignIn, proven
from app.services.participation.participants import Hold, visible_person
from app.services.quality.signed_content import FORM, Subject, contents, digest


class ContentMoved(Conflict):
    """The content has changed since you read it; read it again before you sign."""


@dataclass(frozen=True)
class Signing:
    """One signed-in investigator who signs, from one client address."""

    sign_in: SignIn
    actor: Actor
    address: str

    def sign(self, session: Session, body: SignatureCreate) -> SignatureRead:
        """Sign with the password and, if the account has one, the second factor (21 CFR 11.200(a)(1)).

        Signing the same content with the same meaning again gives the existing signature, so that a retry is safe.
        Raises TooManyAttempts, CredentialsWrong, TotpNeeded, TotpWrong, PasswordNotOwn, NotFound, ContentMoved.
        """
        account, with_code = self._proven(session, body)
        require_own_password(account)
        person = visible_person(session, self.actor, body.participant, hold=Hold.change)
        read = content(session, self.actor, Subject(person.row.pid, body.visit))
        if read.content_sha256 != body.content_sha256:
            raise ContentMoved
        row = self._existing(session, read, body)
        if row is None:
            row = Signature(
                site_id=person.site_id,
                pid=person.row.pid,
                visit_id=body.visit,
                meaning=body.meaning,
                content_form=FORM,
                content_sha256=read.content_sha256,
                signer=account.id,
                signer_name=account.display_name,
                second_factor=with_code,
                signed_at=now(),
            )
            session.add(row)
            session.flush()
            audit.append(session, account.id, row.site_id, [audit.created("signature:made", row, row.id)])
        return _read(values(row), self.actor, SignatureState.valid)

    def _proven(self, session: Session, body: SignatureCreate) -> tuple[Account, bool]:
        account, attempt = self.sign_in.own_account(self.actor.account_id, body.password, self.address, "signature")
        with self.sign_in.database.read() as reading:
            factor = reading.get(Totp, account.id)
        step = self.sign_in.second_factor(attempt, factor, body.totp, "signature")
        assert account.password_hash is not None
        return proven(session, attempt, account.id, account.password_hash, step), step is not None

    def _existing(self, session: Session, read: ContentRead, body: SignatureCreate) -> Signature | None:
        equal = (
            Signature.pid == read.participant,
            Signature.visit_id == read.visit,
            Signature.signer == self.actor.account_id,
            Signature.meaning == body.meaning,
            Signature.content_sha256 == read.content_sha256,
        )
        return session.exec(visible(select(Signature).where(*equal), self.actor)).first()


def content(session: Session, actor: Actor, subject: Subject) -> ContentRead:
    """The content that a signature of the subject would cover now. Raises NotFound."""
    text = found(contents(session, actor, [subject]).get(subject))
    return ContentRead(
        participant=subject.pid,
        visit=subject.visit_id,
        content_form=FORM,
        content_sha256=digest(text),
        content=text,
    )


def rows() -> Rows:
    """Signatures; narrow the statement with `visible`."""
    return sa.select(*columns(Signature))


def read_one(session: Session, actor: Actor, signature_id: UUID) -> SignatureRead:
    """One signature with its state. Raises NotFound."""
    row = found(session.execute(visible(rows().where(col(Signature.id) == signature_id), actor)).first())
    return read_all(session, actor, [row])[0]


def read_all(session: Session, actor: Actor, signed: Sequence[Row[Any]]) -> list[SignatureRead]:
    """Signatures with their state: valid if the content is still the signed one."""
    present = contents(session, actor, _subjects(signed))
    reads = []
    for row in signed:
        text = present.get(Subject(row.pid, row.visit_id))
        valid = text is not None and digest(text) == row.content_sha256
        reads.append(_read(fields_of(row), actor, SignatureState.valid if valid else SignatureState.broken))
    return reads


def _subjects(signed: Iterable[Row[Any]]) -> set[Subject]:
    return {Subject(row.pid, row.visit_id) for row in signed}


def _read(row: Mapping[str, Any], actor: Actor, state: SignatureState) -> SignatureRead:
    place = actor.places[row["site_id"]]
    codes = {"study": place.study, "site": place.site}
    return SignatureRead.of_row(row, participant=row["pid"], visit=row["visit_id"], state=state, **codes)
