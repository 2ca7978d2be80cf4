"""Items and users from sparse features and several vectors, as advertising data have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.embeddings import embedding
from genrec.models.item_encoders.base import ItemEncoder, register
from genrec.models.item_encoders.events import EventFeature
from genrec.models.meta import SequenceMeta
from genrec.models.tables import ItemTables

MAX_ROWS = 200_000  # of a feature that is not hashed
_BLOCK = 1 << 15
# Two odd multipliers and shifts: the rows of a hashed value.
_HASHES = ((0x9E3779B1, 15), (0x85EBCA77, 13))


class SparseFeatures(nn.Module):
    """Embeddings of sparse features, one table for all, side by side `[..., F * width]`.

    A value is a row; 0, an unknown value, is zero. A feature with several values is the sum of
    their embeddings. A feature of more than `max_rows` values is hashed: each value is the sum of
    two rows of a table of `max_rows` (Svenstrup et al. 2017), so that hardly any two values share
    an embedding.

    Args:
        columns: name to rows (largest value + 1) and values side by side, in the order of the
            matrix.
        used: names of the features to embed.
        width: of each embedding.
        max_rows: above so many values a feature is hashed.

    Memory: `4 * width` bytes for each value of a feature, of at most `max_rows` values.
    """

    index: torch.Tensor
    offset: torch.Tensor
    first: torch.Tensor
    hashed: torch.Tensor
    segment: torch.Tensor

    def __init__(
        self,
        *,
        columns: Mapping[str, tuple[int, int]],
        used: Sequence[str],
        width: int,
        max_rows: int,
    ) -> None:
        super().__init__()
        self.width, self.max_rows, self.count = width, max_rows, len(used)
        starts: dict[str, int] = {}
        at = 0
        for name, (_, values) in columns.items():
            starts[name] = at
            at += values
        index: list[int] = []
        offset: list[int] = []
        first: list[int] = []
        hashed: list[bool] = []
        segment: list[int] = []
        rows = 1  # row 0 is padding
        self.blocks: list[tuple[int, int]] = []  # first row and rows of each feature
        for place, name in enumerate(used):
            size, values = columns[name]
            big = size > max_rows
            # Entries are columns of the matrix; a hashed one is looked up twice.
            for turn in range(2 if big else 1):
                index += range(starts[name], starts[name] + values)
                offset += [rows] * values
                first += [turn] * values
                hashed += [big] * values
                segment += [place] * values
            self.blocks.append((rows, max_rows if big else size))
            rows += self.blocks[-1][1]
        for key, value, dtype in (
            ("index", index, torch.int64),
            ("offset", offset, torch.int64),
            ("first", first, torch.int64),
            ("hashed", hashed, torch.bool),
            ("segment", segment, torch.int64),
        ):
            self.register_buffer(key, torch.tensor(value, dtype=dtype))
        self.plain = len(index) == len(used)
        self.any_hashed = any(hashed)
        self.table = embedding(rows, width, padding_idx=0)

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of the table, int64 `[M, E]`, of values int32 `[M, W]`."""
        picked = values[:, self.index].long()
        local = picked
        if self.any_hashed:
            one, two = (((picked * by) ^ (picked >> down)) % self.max_rows for by, down in _HASHES)
            local = torch.where(self.hashed, torch.where(self.first == 0, one, two), picked)
        return torch.where(picked == 0, 0, local + self.offset)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Embeddings `[M, F * width]` of values int32 `[M, W]`."""
        found = self.table(self.rows(values))
        if not self.plain:
            pooled = found.new_zeros(len(found), self.count, self.width)
            found = pooled.index_add(1, self.segment, found)
        return found.flatten(1)


@register("features")
class FeatureEncoder(ItemEncoder):
    """Sparse features and vectors of an item, side by side, projected to the model's width.

    It is the item tower of the TencentGR baseline.

    Args:
        tables: item tables with features.
        d_model: width of the output.
        columns: sparse features to read, as the items have them; YAML reads the name of a numbered
            one as a number.
        vectors: vectors to read, likewise.
        width: of each feature's embedding and of each projected vector; `d_model` by default.
        max_rows: features of more values are hashed, see `SparseFeatures`.
        activation: `none` or `relu`, after the projection; the published baseline has `relu`.
        missing: what stands for a vector that an item does not have: `learned`, a vector of its own
            in place of the projected one, or `zero`, projected as any other, as published.
        dropout: on the output.
    """

    def __init__(
        self,
        *,
        tables: ItemTables,
        d_model: int,
        columns: Sequence[str | int] = (),
        vectors: Sequence[str] = (),
        width: int | None = None,
        max_rows: int = MAX_ROWS,
        activation: str = "none",
        missing: str = "learned",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        names, of_vectors = [str(name) for name in columns], list(vectors)
        check_columns("features", names, tables.feature_columns)
        for name in of_vectors:
            if name not in tables.feature_vectors:
                raise ConfigError(
                    f"item encoder 'features': no vector {name!r}; the model was given "
                    f"{list(tables.feature_vectors)}"
                )
        if not names and not of_vectors:
            raise ConfigError(
                "item encoder 'features': reads nothing; name columns or vectors of the items"
            )
        check_activation("features", activation)
        if missing not in ("learned", "zero"):
            raise ConfigError(
                f"item encoder 'features': missing={missing!r}; expected 'learned' or 'zero'"
            )
        for option, value, default, of, read in (
            ("max_rows", max_rows, MAX_ROWS, "columns", names),
            ("missing", missing, "learned", "vectors", of_vectors),
        ):
            if value != default and not read:
                raise ConfigError(
                    f"item encoder 'features': {option}={value!r} is of {of}, and none are read; "
                    f"name {of} or leave {option} out"
                )
        size = _positive("features", width=d_model if width is None else width, max_rows=max_rows)
        self.activation, self.width = activation, size
        self.sparse = (
            SparseFeatures(
                columns=tables.feature_columns, used=names, width=size, max_rows=max_rows
            )
            if names
            else None
        )
        starts, at = {}, 0
        for name, dim in tables.feature_vectors.items():
            starts[name] = (at, at + dim)
            at += dim
        self.parts = [
            (list(tables.feature_vectors).index(name), *starts[name]) for name in of_vectors
        ]
        self.projections = nn.ModuleList(nn.Linear(high - low, size) for _, low, high in self.parts)
        # Without a vector it holds nothing, and there is nothing to learn.
        learned = self.parts if missing == "learned" else []
        self.missing = nn.Parameter(
            0.02 * torch.randn(len(learned), size), requires_grad=bool(learned)
        )
        self.outer = nn.Linear(size * (len(names) + len(of_vectors)), d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        flat = items.reshape(-1)
        found = [] if self.sparse is None else [self.sparse(self.tables.features[flat])]
        for place, projection in enumerate(self.projections):
            which, low, high = self.parts[place]
            vector = projection(self.tables.more_vectors[flat, low:high])
            if len(self.missing):
                known = self.tables.known[flat, which].unsqueeze(1)
                vector = torch.where(known, vector, self.missing[place].to(vector.dtype))
            found.append(vector)
        out = self.outer(torch.cat(found, dim=1))
        out = F.relu(out) if self.activation == "relu" else out
        return self.dropout(out).view(*items.shape, self.d_model)

    def all_items(self) -> torch.Tensor:
        """See `ItemEncoder.all_items`; block by block where no gradient is asked for."""
        every = torch.arange(self.tables.num_items, device=self.tables.counts.device)
        if torch.is_grad_enabled():
            return self(every)
        return torch.cat([self(part) for part in every.split(_BLOCK)])


@register("user")
class UserFeatures(EventFeature):
    """What is known of the user: sparse features projected to the width.

    It is added to every event, or is a token before them. A user that the model does not hold, and
    one of whom nothing is known, have the same vector.

    Args:
        tables: with features of users.
        d_model: width of the output.
        columns: sparse features to read, as the users have them.
        width: of each feature's embedding; `d_model` by default.
        max_rows: features of more values are hashed, see `SparseFeatures`.
        token: put the vector before the events as a token of its own, which predicts the first
            event of the window (the published baseline), and do not add it to the events.
        activation: `none` or `relu`, after the projection; the published baseline has `relu`.
        dropout: on the output.
    """

    def __init__(
        self,
        *,
        tables: ItemTables,
        d_model: int,
        columns: Sequence[str | int] = (),
        width: int | None = None,
        max_rows: int = MAX_ROWS,
        token: bool = False,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        check_activation("user", activation)
        self.fronts, self.activation = token, activation
        names = [str(name) for name in columns]
        check_columns("user", names, tables.user_columns)
        if not names:
            raise ConfigError("item encoder 'user': reads nothing; name columns of the users")
        size = _positive("user", width=d_model if width is None else width, max_rows=max_rows)
        self.sparse = SparseFeatures(
            columns=tables.user_columns, used=names, width=size, max_rows=max_rows
        )
        self.outer = nn.Linear(size * len(names), d_model)
        self.dropout = nn.Dropout(dropout)

    def events(self, meta: SequenceMeta) -> torch.Tensor | None:
        """See `EventFeature.events`."""
        if self.fronts:
            return None
        return self._vector(meta).unsqueeze(1).expand(*meta.mask.shape, self.d_model)

    def front(self, meta: SequenceMeta) -> torch.Tensor | None:
        """See `ItemEncoder.front`."""
        return self._vector(meta) if self.fronts else None

    def _vector(self, meta: SequenceMeta) -> torch.Tensor:
        table = self.tables.user_features
        rows = len(meta.mask)
        values = table.new_zeros(rows, table.shape[1])
        if meta.user is not None:
            user = meta.user[:, 0]
            inside = (user >= 0) & (user < len(table))
            values = torch.where(inside[:, None], table[user.masked_fill(~inside, 0)], values)
        out = self.outer(self.sparse(values))
        return self.dropout(F.relu(out) if self.activation == "relu" else out)


def check_columns(part: str, names: Sequence[str], there: Mapping[str, tuple[int, int]]) -> None:
    """Raise ConfigError for the first feature that the model was not given, or that comes twice."""
    for place, name in enumerate(names):
        if name not in there:
            raise ConfigError(
                f"item encoder {part!r}: no column {name!r}; the model was given {list(there)}"
            )
        if name in names[:place]:
            raise ConfigError(f"item encoder {part!r}: column {name!r} comes twice")


def check_activation(part: str, activation: str) -> None:
    """Raise ConfigError for an activation that a tower does not have."""
    if activation not in ("none", "relu"):
        raise ConfigError(
            f"item encoder {part!r}: activation={activation!r}; expected 'none' or 'relu'"
        )


def _positive(part: str, *, width: int, max_rows: int) -> int:
    if width < 1 or max_rows < 2:
        raise ConfigError(
            f"item encoder {part!r}: width={width}, max_rows={max_rows}; expected at least 1 and 2"
        )
    return width
