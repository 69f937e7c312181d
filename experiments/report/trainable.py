"""The table of what trains, printed before a training starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

if TYPE_CHECKING:
    from lightning_modules import AlignmentModule


def trainable_table(module: AlignmentModule) -> Table:
    """Parts of the network with their trainable and all parameters and their type; adapters stand apart from weights.

    A loss that has parameters of its own is the last part.
    """
    from torch import nn

    from lightning_modules import trainable_rows

    # one part, however many parameters it has
    loss = trainable_rows(nn.ModuleDict({"loss": nn.ModuleDict({"all": module.objective})}))
    rows = [*trainable_rows(module.network), *(replace(row, module="loss") for row in loss)]
    trainable, total = sum(row.trainable for row in rows), sum(row.total for row in rows)
    table = Table(
        title=f"What trains: {trainable:,} of {total:,} parameters ({trainable / max(1, total):.1%})", box=SIMPLE
    )
    for heading in ("module", "", "trainable", "all", "type"):
        table.add_column(heading, justify="right" if heading in ("trainable", "all") else "left")
    for row in rows:
        table.add_row(row.module, row.kind, f"{row.trainable:,}" if row.trainable else "-", f"{row.total:,}", row.dtype)
    return table
