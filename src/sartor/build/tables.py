"""The verb for tables: a file's rows → examples, each row ending as an example or as a named failure in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from sartor.build import RowBuilder, builder
from sartor.data.folder import DataFolder, card, making, open_folder, told
from sartor.data.reading.row import Bad, Row
from sartor.data.reading.rows import rows
from sartor.errors import DataError, FieldError, RecipeError, Where
from sartor.recipe import Named, validated
from sartor.types import Example, LedgerEntry, Progress, Source


def build_table(
    table: Path, table_label: str, chosen: Named, path: Path, label: str, *, progress: Progress | None = None
) -> DataFolder:
    """Build examples from the rows of a file (CSV, TSV, Parquet, JSONL, a JSON array) into a data folder.

    Args:
        table: the file; `table_label` stands in every source, entry and error.
        chosen: the builder and its settings.
        path: where the folder shall be; `label` names it in messages.
        progress: told the bytes read and the bytes in all.

    Raises:
        RecipeError: the builder or its settings are not known, or it does not read rows.
        DataError: the file cannot be read, or no row of it gives an example.
    """
    member = builder(chosen.name)
    if member.READS != "rows":
        raise RecipeError(f"the builder {chosen.name} reads documents", hint="`sartor data collect` makes them")
    config = validated(member.Config, chosen.settings, "build")
    with making(path) as folder:
        num_rows, first = 0, ""
        for row in rows(table, table_label, progress=progress):
            assert isinstance(row, tuple)  # an example would need an express
            num_rows += 1
            found = _example(cast("RowBuilder", member), row, table_label, config)
            if isinstance(found, LedgerEntry):
                first = first or found.detail
                folder.tell(found)
            else:
                folder.keep(found)
        if not folder.num_kept:
            raise DataError(
                f"no row of {num_rows:,} gives an example: {first or 'there are none'}",
                hint="name the columns as the file does, in the settings of the builder",
                where=Where(table_label),
            )
        folder.balance(num_rows)
        facts = [("made by", f"build {chosen.name}"), ("from", table_label)]
        folder.finish(card("Built data", facts, {"rows": num_rows, "examples": folder.num_kept} | told(folder.counts)))
    return open_folder(path, label)


def _example(member: RowBuilder, row: Row | Bad, label: str, config: object) -> Example | LedgerEntry:
    if isinstance(row, Bad):
        detail = f"saw {row.seen}, expected {row.expected}"
        return LedgerEntry(
            action="dropped", file=label, line=row.place, field=row.field, reason=row.reason, detail=detail
        )
    try:
        return member.example(row.value, Source(file=label, line=row.place), config)
    except FieldError as error:
        return LedgerEntry(
            action="dropped", file=label, line=row.place, field=error.field, reason="field", detail=error.message
        )
