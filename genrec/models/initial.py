"""How the weights of a whole model begin, where its parts' own ways are not wanted."""

from __future__ import annotations

import torch
from torch import nn

from genrec.errors import ConfigError, expected_one_of
from genrec.models.embeddings import STD, HeldRows
from genrec.models.item_encoders.features import SparseFeatures

INITIAL = ("parts", "xavier")


def check_initial(initial: str) -> None:
    """Raise ConfigError for a way that does not exist."""
    if initial not in INITIAL:
        raise ConfigError(f"model: initial={initial!r}; {expected_one_of(initial, INITIAL)}")


@torch.no_grad()
def xavier_normal(model: nn.Module) -> None:
    """Give every matrix the deviation `sqrt(2 / (rows + columns))` (Glorot and Bengio 2010).

    A table that holds several features is one matrix for each of them, with a row more for the
    unknown value; so are query, key and value. Vectors are left as they are, and rows that are
    zero.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    shared = {
        id(module.table): module.blocks
        for module in model.modules()
        if isinstance(module, SparseFeatures)
    }
    drawn = {id(table.weight) for table in tables}
    for table in tables:
        # Scaled, not drawn again: of a table that is split, each process has some rows only.
        first = table.first if isinstance(table, HeldRows) else 0
        rows = table.held if isinstance(table, HeldRows) else table.weight
        for start, count in shared.get(id(table), [(0, table.num_embeddings)]):
            low, high = (min(max(at - first, 0), len(rows)) for at in (start, start + count))
            fan = count + table.embedding_dim
            rows[low:high] *= (2 / fan) ** 0.5 / STD
    for name, weight in model.named_parameters():
        if weight.dim() >= 2 and id(weight) not in drawn:
            for piece in weight.chunk(3 if name.endswith(("qkv.weight",)) else 1):
                nn.init.xavier_normal_(piece)
