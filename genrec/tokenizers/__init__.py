"""Items <-> semantic IDs: the SID vocabulary, collision policies, tie order and its quality."""

from genrec.tokenizers.build import build_vocabulary
from genrec.tokenizers.collisions import COLLISION_POLICIES, Resolved, resolve_collisions
from genrec.tokenizers.inspection import inspect_vocabulary, print_inspection
from genrec.tokenizers.summary import print_summary, summarize
from genrec.tokenizers.ties import make_tie_order
from genrec.tokenizers.vocabulary import SidVocabulary

__all__ = [
    "COLLISION_POLICIES",
    "Resolved",
    "SidVocabulary",
    "build_vocabulary",
    "inspect_vocabulary",
    "make_tie_order",
    "print_inspection",
    "print_summary",
    "resolve_collisions",
    "summarize",
]
