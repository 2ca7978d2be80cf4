"""Vectors from words alone: TF-IDF and a truncated SVD (latent semantic analysis).

Deerwester et al., "Indexing by latent semantic analysis", JASIS 1990. It needs no download, runs
in seconds, and is the baseline a sentence encoder has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genrec.embedding.base import Embedder, require, require_seed
from genrec.embedding.linalg import normalize_rows, truncated_svd
from genrec.embedding.vectors import ItemVectors
from genrec.errors import DataError

if TYPE_CHECKING:
    from genrec.data import Catalog, Histories, Split


@dataclass(frozen=True, kw_only=True)
class LexicalEmbedder(Embedder):
    """TF-IDF (sublinear term frequency) of an item's text, reduced by a truncated SVD.

    Args:
        columns: text columns of the catalog; by default all of them.
        template: how the columns make one text, such as `"{title}. {categories}"`.
        dim: dimensions kept; a catalog with fewer words gives fewer.
        ngrams: longest word n-gram counted.
        min_items: a term that occurs in fewer items is left out.
        max_terms: at most so many terms, the most frequent first.
        normalize: L2-normalise the vectors; an item without a known term stays zero.
        seed: seed of the randomised SVD.
    """

    type = "lexical"

    columns: Sequence[str] | None = None
    template: str | None = None
    dim: int = 256
    ngrams: int = 1
    min_items: int = 2
    max_terms: int = 200_000
    normalize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dim", "ngrams", "min_items", "max_terms"):
            value = getattr(self, name)
            require(value >= 1, f"lexical: {name} must be at least 1, got {value}")
        require_seed("lexical", self.seed)

    def embed(
        self,
        catalog: Catalog,
        *,
        histories: Histories | None = None,
        split: Split | None = None,
    ) -> ItemVectors:
        """Embed the catalog's text.

        Raises:
            DataError: if no term occurs in `min_items` items.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = catalog.text(self.columns, self.template)
        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            strip_accents="unicode",
            ngram_range=(1, self.ngrams),
            min_df=min(self.min_items, len(texts)),
            max_features=self.max_terms,
        )
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise DataError(
                f"lexical: no word of the catalog's text occurs in {self.min_items} items "
                f"({error}); lower min_items or choose other columns"
            ) from error
        vectors = truncated_svd(
            matrix, self.dim, seed=self.seed, power=1.0, what="the TF-IDF matrix"
        )
        if self.normalize:
            vectors = normalize_rows(vectors)
        empty = int((matrix.getnnz(axis=1) == 0).sum())
        config = self.describe(num_terms=matrix.shape[1], items_without_terms=empty)
        return ItemVectors(vectors, catalog.item_ids, config, source="lexical")
