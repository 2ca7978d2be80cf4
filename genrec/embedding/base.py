"""What every embedder is: keyword arguments in, one `ItemVectors` out."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genrec.embedding.vectors import ItemVectors
from genrec.errors import ConfigError

if TYPE_CHECKING:
    from genrec.data import Catalog, Histories, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedder(ABC):
    """Turns the items of a catalog into vectors.

    A subclass is a dataclass whose fields are its whole configuration, so that `config` can be
    written beside the vectors and `make_embedder(**config)` builds the same embedder again.
    """

    type: ClassVar[str]
    # Fields that say where and how fast the work is done, and leave the vectors as they are.
    local: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def embed(
        self,
        catalog: Catalog,
        *,
        histories: Histories | None = None,
        split: Split | None = None,
    ) -> ItemVectors:
        """Return one vector per item, in the order of the catalog.

        Args:
            catalog: the items.
            histories: users' histories; only collaborative embedders look at them.
            split: which events are training events; no embedder looks at any other.
        """

    @property
    def reads_histories(self) -> bool:
        """Whether the vectors depend on training events, and so on the split."""
        return False

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as a dictionary that JSON can hold, with the embedder's `type`."""
        fields = dataclasses.fields(self)
        return {"type": self.type} | {f.name: _plain(getattr(self, f.name)) for f in fields}

    def describe(self, **report: Any) -> dict[str, Any]:
        """The config of the vectors: what they depend on, and under `report` what was met."""
        kept = {key: value for key, value in self.config.items() if key not in self.local}
        return kept | {"report": report}


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError` with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_seed(embedder: str, seed: int) -> None:
    """Raise `ConfigError` unless scikit-learn takes the seed."""
    require(0 <= seed < 2**32, f"{embedder}: seed must be from 0 to {2**32 - 1}, got {seed}")


def _plain(value: Any) -> Any:
    if isinstance(value, Embedder):
        return value.config
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
