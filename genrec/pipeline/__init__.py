"""The stages in order, as the command line and Python call them."""

from genrec.data.sources import prepare
from genrec.pipeline.check import check
from genrec.pipeline.evaluate import evaluate
from genrec.pipeline.exchange import export_sids, import_sids
from genrec.pipeline.inspect import inspect
from genrec.pipeline.recipe import Recipe, run
from genrec.pipeline.recommend import recommend
from genrec.pipeline.refresh import refresh
from genrec.pipeline.runs import Run
from genrec.pipeline.settings import SplitConfig
from genrec.pipeline.train import train
from genrec.pipeline.vocabulary import embed, quantize

__all__ = [
    "Recipe",
    "Run",
    "SplitConfig",
    "check",
    "embed",
    "evaluate",
    "export_sids",
    "import_sids",
    "inspect",
    "prepare",
    "quantize",
    "recommend",
    "refresh",
    "run",
    "train",
]
