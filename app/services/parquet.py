"""Tables as Parquet, where the server has pyarrow (the extra `parquet`)."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from io import BufferedReader
from typing import TYPE_CHECKING, Any

from app.privacy.profile import Column
from app.services.chunks import Reader

if TYPE_CHECKING:
    from io import RawIOBase


def available() -> bool:
    return find_spec("pyarrow") is not None


def write(target: "RawIOBase", columns: Sequence[Column], table: Iterable[bytes]) -> None:
    """A table's CSV as Parquet, batch by batch, typed as the codebook says. No metadata beyond the schema."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    types = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "text": pa.string()}
    schema = pa.schema([(column.name, types[column.type]) for column in columns])
    options: dict[str, Any] = {
        "read_options": csv.ReadOptions(block_size=1 << 20, use_threads=False),
        "convert_options": csv.ConvertOptions(
            column_types=schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["Y"],
            false_values=["N"],
        ),
    }
    stream: Any = Reader(iter(table))
    source = pa.PythonFile(BufferedReader(stream, 1 << 20), mode="r")
    with (
        csv.open_csv(source, **options) as batches,
        parquet.ParquetWriter(target, schema, compression="zstd", store_schema=False) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
