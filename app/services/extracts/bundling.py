"""The files of one build: tables, codebook, risk report, README, manifest, checksums and a zip of them all."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self
from uuid import UUID

from sqlmodel import Session

from app import __version__
from app.database import Database
from app.models.base import canonical_json, from_json
from app.models.extract import Extract, ExtractFileRead, ExtractFormat
from app.privacy import bundle
from app.privacy.codebook import codebook
from app.privacy.profile import Column, Profile
from app.privacy.risk import readable
from app.security.keys import Keyring
from app.services.extracts import chunks, parquet

SCHEMA = "research-registry/extract/3"
STATEMENT = "De-identified by the rules of this profile; not anonymous. No attempt at re-identification."
UNDER_AGREEMENT = "Pseudonymised personal data under the agreement named here. No attempt at re-identification."


class Files(Mapping[str, ExtractFileRead]):
    """The files written so far, by name. One thread stores the chunks, another makes Parquet."""

    def __init__(self, database: Database, extract_id: UUID, build: UUID, kept: Callable[[Session], None]) -> None:
        self._database, self._extract_id, self._build, self._kept = database, extract_id, build, kept
        self._written: dict[str, ExtractFileRead] = {}
        self._packed: dict[str, bundle.Packed] = {}
        self._stored: dict[str, chunks.EncryptedFile] = {}
        self._worker = ThreadPoolExecutor(1, "extract-chunks")
        self._converter = ThreadPoolExecutor(1, "extract-parquet")
        self.manifest: Mapping[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._converter.shutdown(cancel_futures=True)  # before the thread that it waits for
        self._worker.shutdown(cancel_futures=True)

    def __getitem__(self, name: str) -> ExtractFileRead:
        return self._written[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)

    def read(self, name: str) -> Iterator[bytes]:
        return chunks.read(self._database, self._stored[name], 0, self[name].bytes)

    def write(self, name: str, parts: Iterable[bytes], *, counted: bool = False) -> ExtractFileRead:
        """Write a whole file. `counted`: it is a table, whose rows are counted; its first line is a header."""
        target, lines = self._writer(name, chunks.FAST), -1
        for part in parts:
            lines += part.count(b"\n")
            target.write(part)
        return self._described(name, target, lines if counted else None)

    def write_table(self, name: str, columns: Sequence[Column], parts: Iterable[bytes], formats: str) -> int:
        """Write a table as CSV, and as Parquet if the extract's `formats` (JSON) have it; gives its number of rows."""
        if ExtractFormat.parquet not in from_json(formats):
            return self.write(name, parts, counted=True).rows or 0
        other = name.removesuffix("csv") + "parquet"
        target = self._writer(other, chunks.UNCOMPRESSED)
        table = parquet.Table(target, columns, self._converter)
        rows = self.write(name, _also(table, parts), counted=True).rows
        table.finish()
        self._described(other, target, rows)
        return rows or 0

    def _writer(self, name: str, level: int) -> chunks.Writer:
        stored = self._stored[name] = chunks.new_file(self._extract_id, self._build, name)
        return chunks.Writer(self._database, stored, level, self._worker, self._kept)

    def _described(self, name: str, target: chunks.Writer, rows: int | None) -> ExtractFileRead:
        done, stored = target.finish(), self._stored[name]
        self._packed[name] = bundle.Packed(
            done.length, done.packed, done.crc32, lambda: chunks.packed(self._database, stored, done.length)
        )
        media_type = bundle.MEDIA_TYPES[name.rpartition(".")[2]]
        described = ExtractFileRead(name=name, media_type=media_type, rows=rows, bytes=done.length, sha256=done.sha256)
        self._written[name] = described
        return described

    def require_all_there(self, session: Session) -> None:
        """Raises ChunkGone."""
        if not chunks.all_there(session, {stored: self[name].bytes for name, stored in self._stored.items()}):
            raise chunks.ChunkGone

    def rows(self, keyring: Keyring) -> list[dict[str, Any]]:
        """The rows of ExtractFile: what the database has of each file besides its chunks."""
        return [
            {
                **self._written[name].model_dump(),
                "extract_id": self._extract_id,
                "build": self._build,
                "sealed_key": chunks.sealed_key(keyring, stored),
            }
            for name, stored in self._stored.items()
        ]

    def complete(self, extract: Extract, profile: Profile, study: str, approved: Mapping[str, Any]) -> None:
        """Write everything besides the tables. `approved` is the part of the manifest that the approval fixed."""
        if ExtractFormat.ndjson in from_json(extract.formats):
            self._write_dataset_json(
                profile, bundle.Origin(study, str(extract.id), approved["created_at"], __version__)
            )
        about, book = {"profile": extract.profile, "profile_version": profile.version}, codebook(profile)
        self.write("codebook.json", [canonical_json({**about, "columns": book}).encode()])
        self.write("codebook.csv", [bundle.codebook_csv(book)])
        if approved["risk"] is not None:
            self.write("risk_report.json", [canonical_json(approved["risk"]).encode()])
            self.write("risk_report.md", [readable(approved["risk"]).encode()])
        self.manifest = self._manifest(extract, profile, study, approved)
        self.write("README.txt", [bundle.readme(self.manifest)])
        self.write("manifest.json", [canonical_json(self.manifest).encode()])
        self.write("sha256sums.txt", [bundle.sums({name: one.sha256 for name, one in self.items()})])
        archive = self._writer("bundle.zip", chunks.UNCOMPRESSED)
        bundle.zipped(archive, self._packed)
        self._described("bundle.zip", archive, None)

    def _write_dataset_json(self, profile: Profile, origin: bundle.Origin) -> None:
        for file, columns in profile.files.items():
            name, rows = file.removesuffix(".csv"), self[file].rows or 0
            self.write(
                f"{name}.ndjson", bundle.dataset_json(name, columns, self.read(file), rows, origin), counted=True
            )

    def _manifest(
        self, extract: Extract, profile: Profile, study: str, approved: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What manifest.json says, with the files written so far."""
        return {
            "schema": SCHEMA,
            "extract": str(extract.id),
            "study": study,
            "profile": extract.profile,
            "profile_version": profile.version,
            "organisation": extract.organisation,
            "purpose": extract.purpose,
            "agreement": extract.agreement,
            "cut": extract.cut,
            **{name: approved[name] for name in ("created_at", "subjects", "levels", "risk")},
            "ledger": approved.get("ledger"),  # missing if an earlier version approved it
            "dates": "study days" if profile.under_agreement else "none; visits by name",
            "statement": UNDER_AGREEMENT if profile.under_agreement else STATEMENT,
            "software": f"research-registry {__version__}",
            "row_content_sha256": content_digest({file: self[file].sha256 for file in profile.files}),
            "files": [one.model_dump(mode="json") for one in self.described()],
        }

    def described(self) -> list[ExtractFileRead]:
        return [self._written[name] for name in sorted(self._written)]


def _also(table: parquet.Table, parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts of a CSV file, each also written to `table`."""
    for part in parts:
        table.write(part)
        yield part


def content_digest(digests: Mapping[str, str]) -> str:
    """The hash by which an extract is cited: the SHA-256 of the canonical JSON of {CSV file: its SHA-256}."""
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()
