"""What a recommender knows of each item: codes, vectors, training frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from genrec.decoding import PrefixTrie, default_tie_order
from genrec.errors import ArtefactError, ConfigError, DataError


class ItemTables(nn.Module):
    """Per-item tables, held once by the recommender and read by its parts.

    They are buffers, so they move with the model and are saved with it: a model folder runs on
    its own.

    Args:
        num_items: N.
        codebook_sizes: codes per level, empty where the model uses no SIDs.
        vector_dim: width d of the item vectors, 0 where the model uses none.
        feature_columns: sparse features: name, rows (largest value + 1) and values per item of
            each.
        feature_vectors: further vectors: name and width of each.
        user_columns: sparse features of users, likewise.
        num_users: users that have features.

    Attributes:
        codes: int32 `[N, L]`.
        vectors: float32 `[N, d]`.
        counts: float32 `[N]`, events of each item in training (for sampling and logQ).
        tie_order: int64 `[N]`, rank of each item among items of equal score.
        features: int32 `[N, F]`, values of the sparse features side by side; 0 is unknown.
        more_vectors: float32 `[N, sum of widths]`, the further vectors side by side.
        known: bool `[N, V]`, whether an item has each of the further vectors.
        user_features: int32 `[U, F]`, likewise of users.

    Memory per item: `4 L + 4 d + 12` bytes, and 4 for each value and number of features.
    """

    codes: torch.Tensor
    vectors: torch.Tensor
    counts: torch.Tensor
    tie_order: torch.Tensor
    features: torch.Tensor
    more_vectors: torch.Tensor
    known: torch.Tensor
    user_features: torch.Tensor

    def __init__(
        self,
        *,
        num_items: int,
        codebook_sizes: Sequence[int] = (),
        vector_dim: int = 0,
        feature_columns: Sequence[Sequence[Any]] = (),
        feature_vectors: Sequence[Sequence[Any]] = (),
        user_columns: Sequence[Sequence[Any]] = (),
        num_users: int = 0,
    ) -> None:
        super().__init__()
        self.num_items = num_items
        self.codebook_sizes = tuple(codebook_sizes)
        self.vector_dim = vector_dim
        self.required: set[str] = set()  # what the parts asked for
        self.register_buffer(
            "codes", torch.zeros(num_items, len(self.codebook_sizes), dtype=torch.int32)
        )
        self.register_buffer("vectors", torch.zeros(num_items, vector_dim))
        self.register_buffer("counts", torch.ones(num_items))
        # Never the item number, which often follows first appearance in the data.
        self.register_buffer("tie_order", torch.as_tensor(default_tie_order(num_items)))
        self.feature_columns = {name: (rows, width) for name, rows, width in feature_columns}
        self.feature_vectors: dict[str, int] = dict(map(tuple, feature_vectors))
        self.user_columns = {name: (rows, width) for name, rows, width in user_columns}
        self._add("features", num_items, _width(self.feature_columns), torch.int32)
        self._add("more_vectors", num_items, sum(self.feature_vectors.values()), torch.float32)
        self._add("known", num_items, len(self.feature_vectors), torch.bool)
        self._add("user_features", num_users, _width(self.user_columns), torch.int32)

    def _add(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> None:
        # Models without such a table have none in their files either.
        table = torch.zeros(rows if columns else 0, columns, dtype=dtype)
        self.register_buffer(name, table, persistent=columns > 0)

    def fill(
        self,
        *,
        codes: np.ndarray | torch.Tensor | None = None,
        vectors: np.ndarray | torch.Tensor | None = None,
        counts: np.ndarray | torch.Tensor | None = None,
        tie_order: np.ndarray | torch.Tensor | None = None,
        features: np.ndarray | torch.Tensor | None = None,
        more_vectors: np.ndarray | torch.Tensor | None = None,
        known: np.ndarray | torch.Tensor | None = None,
        user_features: np.ndarray | torch.Tensor | None = None,
    ) -> ItemTables:
        """Set the tables' values.

        Raises:
            DataError: where a shape differs from the table's, a code lies outside its codebook, a
                value outside its feature, or a vector is not finite.
        """
        given_tables = {
            "codes": codes,
            "vectors": vectors,
            "counts": counts,
            "tie_order": tie_order,
            "features": features,
            "more_vectors": more_vectors,
            "known": known,
            "user_features": user_features,
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
            elif name in ("features", "user_features"):
                columns = self.feature_columns if name == "features" else self.user_columns
                _check_values(given, columns, name)
            elif not torch.isfinite(given).all():
                row = int((~torch.isfinite(given.reshape(len(given), -1))).any(1).nonzero()[0])
                raise DataError(f"item tables: {name} of item {row} hold NaN or infinity")
            table.copy_(given)
        return self

    def add_users(self, features: np.ndarray) -> int:
        """Hold further users, int32 `[n, F]`, for as long as the model is in memory.

        Returns:
            The row of the first of them.

        Raises:
            DataError: where the width differs or a value lies outside its feature.
        """
        given = torch.as_tensor(features, dtype=torch.int32)
        if given.ndim != 2 or given.shape[1] != self.user_features.shape[1]:
            raise DataError(
                f"item tables: features of users have shape {tuple(given.shape)}, expected "
                f"[n, {self.user_features.shape[1]}]"
            )
        _check_values(given, self.user_columns, "user_features")
        first = len(self.user_features)
        more = given.to(self.user_features.device)
        self.user_features = torch.cat([self.user_features, more])
        return first

    def check_trie(self, trie: PrefixTrie) -> None:
        """Raise ArtefactError unless the items of `trie` have the codes of these tables.

        Items that the trie does not hold, or holds beyond the tables', are nobody's mistake: a
        catalog changes. One pass over the items.
        """
        if trie.codebook_sizes != self.codebook_sizes:
            raise ArtefactError(
                f"the trie has the codebook sizes {trie.codebook_sizes}, the model "
                f"{self.codebook_sizes}; use the trie of the vocabulary it was trained with"
            )
        leaves = trie.item_leaf[: self.num_items]
        items = (leaves >= 0).nonzero().squeeze(1)
        codes = trie.leaf_codes(leaves[items].to(torch.int64)).to(self.codes.device)
        other = (codes != self.codes[items.to(self.codes.device)]).any(1).nonzero()
        if len(other):
            row = int(other[0])
            item = int(items[row])
            raise ArtefactError(
                f"the trie has the codes {codes[row].tolist()} for item {item}, the model "
                f"{self.codes[item].tolist()} ({len(other):,} such items); use the trie of the "
                "vocabulary it was trained with"
            )

    def require(self, what: str, *, part: str) -> None:
        """Note that `part` reads a table; ConfigError if this recommender was not given it."""
        self.required.add(what)
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


def _width(columns: Mapping[str, tuple[int, int]]) -> int:
    return sum(values for _, values in columns.values())


def _check_values(given: torch.Tensor, columns: Mapping[str, tuple[int, int]], what: str) -> None:
    at = 0
    for name, (rows, width) in columns.items():
        part = given[:, at : at + width]
        if part.numel() and (int(part.min()) < 0 or int(part.max()) >= rows):
            bad = int(((part < 0) | (part >= rows)).any(1).nonzero()[0])
            raise DataError(
                f"{what}: column {name!r} row {bad} has {part[bad].tolist()}; expected values from "
                f"0 to {rows - 1}"
            )
        at += width


def share(module: nn.Module, name: str, other: nn.Module) -> None:
    """Let `module` read `other` without owning it: it is saved and moved with its owner only."""
    object.__setattr__(module, name, other)
