"""Item content to vectors: text, lexical, collaborative, precomputed, fused."""

from genrec.embedding.base import Embedder
from genrec.embedding.collaborative import CollaborativeEmbedder
from genrec.embedding.fused import FusedEmbedder
from genrec.embedding.lexical import LexicalEmbedder
from genrec.embedding.precomputed import PrecomputedEmbedder
from genrec.embedding.registry import EMBEDDERS, make_embedder
from genrec.embedding.text import TextEmbedder
from genrec.embedding.vectors import ItemVectors

__all__ = [
    "EMBEDDERS",
    "CollaborativeEmbedder",
    "Embedder",
    "FusedEmbedder",
    "ItemVectors",
    "LexicalEmbedder",
    "PrecomputedEmbedder",
    "TextEmbedder",
    "make_embedder",
]
