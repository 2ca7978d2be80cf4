"""What a recommender knows of each item: codes, vectors, training frequency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from genrec.decoding import default_tie_order
from genrec.errors import ConfigError, DataError


class ItemTables(nn.Module):
    """Per-item tables, held once by the recommender and read by its parts.

    They are buffers, so they move with the model and are saved with it: a model folder runs on
    its own.

    Args:
        num_items: N.
        codebook_sizes: codes per level, empty where the model uses no SIDs.
        vector_dim: width d of the item vectors, 0 where the model uses none.

    Attributes:
        codes: int32 `[N, L]`.
        vectors: float32 `[N, d]`.
        counts: float32 `[N]`, events of each item in training (for sampling and logQ).
        tie_order: int64 `[N]`, rank of each item among items of equal score.

    Memory per item: `4 L + 4 d + 12` bytes.
    """

    codes: torch.Tensor
    vectors: torch.Tensor
    counts: torch.Tensor
    tie_order: torch.Tensor

    def __init__(
        self, *, num_items: int, codebook_sizes: Sequence[int] = (), vector_dim: int = 0
    ) -> None:
        super().__init__()
        self.num_items = num_items
        self.codebook_sizes = tuple(codebook_sizes)
        self.vector_dim = vector_dim
        self.register_buffer(
            "codes", torch.zeros(num_items, len(self.codebook_sizes), dtype=torch.int32)
        )
        self.register_buffer("vectors", torch.zeros(num_items, vector_dim))
        self.register_buffer("counts", torch.ones(num_items))
        # Never the item number, which often follows first appearance in the data.
        self.register_buffer("tie_order", torch.as_tensor(default_tie_order(num_items)))

    def fill(
        self,
        *,
        codes: np.ndarray | torch.Tensor | None = None,
        vectors: np.ndarray | torch.Tensor | None = None,
        counts: np.ndarray | torch.Tensor | None = None,
        tie_order: np.ndarray | torch.Tensor | None = None,
    ) -> ItemTables:
        """Set the tables' values.

        Raises:
            DataError: where a shape differs from the table's, a code lies outside its codebook, or
                a vector is not finite.
        """
        given_tables = {
            "codes": codes,
            "vectors": vectors,
            "counts": counts,
            "tie_order": tie_order,
        }
        for name, value in given_tables.items():
            if value is None:
                continue
            table = getattr(self, name)
            given = value if isinstance(value, torch.Tensor) else torch.tensor(value)
            if given.shape != table.shape:
                raise DataError(
                    f"item tables: {name} have shape {tuple(given.shape)}, expected "
                    f"{tuple(table.shape)}; use the {name} of the same catalog"
                )
            if name == "codes":
                sizes = torch.tensor(self.codebook_sizes)
                bad = ((given < 0) | (given >= sizes)).any(1).nonzero()
                if len(bad):
                    row = int(bad[0])
                    raise DataError(
                        f"item tables: item {row} has codes {given[row].tolist()}, outside the "
                        f"codebook sizes {self.codebook_sizes}"
                    )
            elif not torch.isfinite(given).all():
                row = int((~torch.isfinite(given.reshape(len(given), -1))).any(1).nonzero()[0])
                raise DataError(f"item tables: {name} of item {row} hold NaN or infinity")
            table.copy_(given)
        return self

    def require(self, what: str, *, part: str) -> None:
        """Raise ConfigError if `part` reads a table that this recommender was not given."""
        missing = (what == "codes" and not self.codebook_sizes) or (
            what == "vectors" and not self.vector_dim
        )
        if missing:
            source, verb, option = (
                ("a SID vocabulary", "quantize", "vocabulary")
                if what == "codes"
                else ("item vectors", "embed", "vectors")
            )
            raise ConfigError(
                f"{part}: needs {source}, none was given; make one with `genrec {verb}` and pass "
                f"--{option}"
            )


def share(module: nn.Module, name: str, other: nn.Module) -> None:
    """Let `module` read `other` without owning it: it is saved and moved with its owner only."""
    object.__setattr__(module, name, other)
