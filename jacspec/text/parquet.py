"""Texts in Parquet files, as data sets on the hub have them: the lines of one column."""

import importlib
import importlib.util
import io

from jacspec.errors import JacspecError, blaming

MAGIC = b"PAR1"
COLUMN, MOST_ROWS = "text", 200_000
"""The column that is read, and how many of its rows: a shard of BookCorpus has millions, each to be tokenized."""


def parquet_text(raw: bytes, source: str) -> str:
    """Join the first `MOST_ROWS` rows of the column `text` of a Parquet file, a line each; rows without are left out.

    **Raises:** `JacspecError` where pyarrow is not installed, the file is damaged or has no such column of text.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise JacspecError(
            f"{source} is a Parquet file, which pyarrow reads, and that is not installed. Type pip install "
            "'jacspec[parquet]'."
        )
    pyarrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    with blaming(f"{source} is no Parquet file that can be read"):
        file = parquet.ParquetFile(io.BytesIO(raw))
        kind = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)).get(COLUMN)
    if kind not in (pyarrow.string(), pyarrow.large_string()):
        raise JacspecError(
            f"{source} has no column {COLUMN!r} of strings. It has: {', '.join(file.schema_arrow.names)}."
        )
    rows: list[str] = []
    with blaming(f"{source} cannot be read"):
        for batch in file.iter_batches(batch_size=10_000, columns=[COLUMN]):
            rows += [row for row in batch.column(0).to_pylist() if row is not None]
            if len(rows) >= MOST_ROWS:
                break
    return "\n".join(row.rstrip("\n") for row in rows[:MOST_ROWS])
