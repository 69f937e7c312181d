"""The table of what trains, printed before a training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

if TYPE_CHECKING:
    from torch import nn


def trainable_table(network: nn.Module) -> Table:
    """Modules with their trainable and all parameters and their type; adapters stand apart from weights."""
    from lightning_modules.adapters import trainable_rows

    rows = trainable_rows(network)
    trainable, total = sum(row.trainable for row in rows), sum(row.total for row in rows)
    table = Table(
        title=f"What trains: {trainable:,} of {total:,} parameters ({trainable / max(1, total):.1%})", box=SIMPLE
    )
    for heading in ("module", "", "trainable", "all", "type"):
        table.add_column(heading, justify="right" if heading in ("trainable", "all") else "left")
    for row in rows:
        table.add_row(row.module, row.kind, f"{row.trainable:,}" if row.trainable else "-", f"{row.total:,}", row.dtype)
    return table
