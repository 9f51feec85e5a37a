"""Tables as Parquet, if pyarrow is installed (the extra `parquet`)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from app.privacy.profile import Column
from app.services.extracts.chunks import SIZE, Background

if TYPE_CHECKING:
    from io import RawIOBase


def available() -> bool:
    return find_spec("pyarrow") is not None


class Table:
    """A table as Parquet, with the types of the codebook and no metadata but the schema, made in a thread while its CSV
    is written. A row group has the rows that end in one chunk of the CSV, so that every build makes the same file."""

    def __init__(self, target: "RawIOBase", columns: Sequence[Column], thread: ThreadPoolExecutor) -> None:
        import pyarrow as pa
        from pyarrow import csv, parquet

        types = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "text": pa.string()}
        self._schema = pa.schema([(column.name, types[column.type]) for column in columns])
        self._typed = csv.ConvertOptions(
            column_types=self._schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["Y"],
            false_values=["N"],
        )
        self._writer = parquet.ParquetWriter(target, self._schema, compression="zstd", store_schema=False)
        self._background, self._buffer, self._header = Background(thread), bytearray(), True
        self._earlier = 0
        """Bytes in the buffer that belong to earlier chunks."""

    def write(self, content: bytes) -> None:
        """Add a part of the CSV; the first begins with the header."""
        self._buffer += content
        while len(self._buffer) >= (end := self._earlier + SIZE):
            lines = self._buffer.rfind(b"\n", 0, end) + 1
            self._hand_over(lines)
            self._earlier = end - lines

    def finish(self) -> None:
        """Write the rest, and the end of the file."""
        self._hand_over(len(self._buffer))
        self._background.finish()
        self._writer.close()

    def _hand_over(self, size: int) -> None:
        if size:
            self._background.do(self._add, bytes(self._buffer[:size]), self._header)
            del self._buffer[:size]
            self._header = False

    def _add(self, lines: bytes, header: bool) -> None:
        import pyarrow as pa
        from pyarrow import csv

        options: dict[str, Any] = {"use_threads": False, "block_size": len(lines)}
        names = {} if header else {"column_names": self._schema.names}
        read = csv.ReadOptions(**options, **names)
        table = csv.read_csv(pa.BufferReader(lines), read, convert_options=self._typed)
        if table.num_rows:
            self._writer.write_table(table)
