"""Items <-> semantic IDs: the SID vocabulary, collision policies, tie order, exchange, refresh."""

from genrec.tokenizers.build import build_vocabulary
from genrec.tokenizers.churn import churn, print_churn
from genrec.tokenizers.collisions import COLLISION_POLICIES, Resolved, resolve_collisions
from genrec.tokenizers.exporters import EXPORTS, export_vocabulary
from genrec.tokenizers.importers import import_vocabulary
from genrec.tokenizers.inspection import inspect_vocabulary, print_inspection
from genrec.tokenizers.refresh import add_items, refresh_vocabulary, remove_items
from genrec.tokenizers.summary import print_summary, summarize
from genrec.tokenizers.ties import make_tie_order
from genrec.tokenizers.tokens import item_texts, item_tokens, sid_tokens
from genrec.tokenizers.vocabulary import SidVocabulary

__all__ = [
    "COLLISION_POLICIES",
    "EXPORTS",
    "Resolved",
    "SidVocabulary",
    "add_items",
    "build_vocabulary",
    "churn",
    "export_vocabulary",
    "import_vocabulary",
    "inspect_vocabulary",
    "item_texts",
    "item_tokens",
    "make_tie_order",
    "print_churn",
    "print_inspection",
    "print_summary",
    "refresh_vocabulary",
    "remove_items",
    "resolve_collisions",
    "sid_tokens",
    "summarize",
]
