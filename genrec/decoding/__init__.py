"""Constrained decoding: the prefix trie, and searches over it that can prove themselves."""

from __future__ import annotations

from genrec.decoding.beam import StepDecoder, beam_search, default_beam_width
from genrec.decoding.codes import default_tie_order
from genrec.decoding.dense import dense_search, rank_candidates
from genrec.decoding.export import TransitionTables, transition_tables
from genrec.decoding.filters import Filter
from genrec.decoding.mutable import MutableTrie
from genrec.decoding.parallel import exact_parallel_search
from genrec.decoding.result import SearchResult
from genrec.decoding.step import Backend, Step, expand_beams
from genrec.decoding.storage import load_trie, save_trie
from genrec.decoding.trie import PrefixTrie

__all__ = [
    "Backend",
    "Filter",
    "MutableTrie",
    "PrefixTrie",
    "SearchResult",
    "Step",
    "StepDecoder",
    "TransitionTables",
    "beam_search",
    "default_beam_width",
    "default_tie_order",
    "dense_search",
    "exact_parallel_search",
    "expand_beams",
    "load_trie",
    "rank_candidates",
    "save_trie",
    "transition_tables",
]
