"""What shapes a recommender, as a Hugging Face configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from genrec.models.backbones import BACKBONES
from genrec.models.heads import HEADS
from genrec.models.item_encoders import ITEM_ENCODERS
from genrec.models.registry import with_defaults


class RecommenderConfig(PretrainedConfig):
    """Everything that shapes a recommender.

    Options that a part is not given are filled in with its defaults, so that what is saved says
    everything, also to a version with other defaults.

    Args:
        num_items: N.
        codebook_sizes: codes per level of the SID vocabulary, empty without one.
        vector_dim: width of the item vectors, 0 without any.
        feature_columns: sparse features of items: name, rows (largest value + 1) and values per
            item of each, in the order of the matrix.
        feature_vectors: further vectors of items: name and width of each, likewise.
        user_columns: sparse features of users, likewise.
        num_users: users whose features the model holds.
        d_model: width of item vectors, hidden states and tables.
        max_history: longest history in items.
        item_encoder: `type` and keyword arguments of an item encoder.
        backbone: `type` and keyword arguments of a backbone.
        head: `type` and keyword arguments of a head.
        input_norm: layer norm on the item vectors before the backbone.
        input_dropout: dropout on the backbone's input.
        initial: how weights begin: `parts`, each part's own way, or `xavier`, see
            `genrec.models.initial`.
        vocabulary_fingerprint: of the SID vocabulary the model was trained with.
    """

    model_type = "genrec"

    def __init__(
        self,
        num_items: int = 1,
        codebook_sizes: Sequence[int] = (),
        vector_dim: int = 0,
        feature_columns: Sequence[tuple[str, int, int]] = (),
        feature_vectors: Sequence[tuple[str, int]] = (),
        user_columns: Sequence[tuple[str, int, int]] = (),
        num_users: int = 0,
        d_model: int = 64,
        max_history: int = 50,
        item_encoder: Mapping[str, Any] | None = None,
        backbone: Mapping[str, Any] | None = None,
        head: Mapping[str, Any] | None = None,
        input_norm: bool = False,
        input_dropout: float = 0.0,
        initial: str = "parts",
        vocabulary_fingerprint: str = "",
        **kwargs: Any,
    ) -> None:
        self.num_items = num_items
        self.codebook_sizes = list(codebook_sizes)
        self.vector_dim = vector_dim
        # Lists, because the keys of an object are sorted when a configuration is saved.
        self.feature_columns = [list(column) for column in feature_columns]
        self.feature_vectors = [list(vector) for vector in feature_vectors]
        self.user_columns = [list(column) for column in user_columns]
        self.num_users = num_users
        self.d_model = d_model
        self.max_history = max_history
        self.item_encoder = with_defaults(ITEM_ENCODERS, item_encoder or {"type": "id"})
        self.backbone = with_defaults(BACKBONES, backbone or {"type": "transformer"})
        kind = BACKBONES.get(str(self.backbone.get("type")))
        if kind is not None:
            self.backbone = kind.resolved(self.backbone)
        self.head = with_defaults(HEADS, head or {"type": "dense"})
        self.input_norm = input_norm
        self.input_dropout = input_dropout
        self.initial = initial
        self.vocabulary_fingerprint = vocabulary_fingerprint
        super().__init__(**kwargs)
