"""Heads: hidden state -> scores, one file each, all behind `Head`."""

from genrec.models.heads.autoregressive import AutoregressiveHead
from genrec.models.heads.base import HEADS, Head, register
from genrec.models.heads.dense import DenseHead
from genrec.models.heads.liger import LigerHead
from genrec.models.heads.parallel import ParallelHead
from genrec.models.heads.regression import RegressionHead
from genrec.models.heads.tokens import TokenHead
from genrec.registry import import_parts

import_parts(__name__, __path__)

__all__ = [
    "HEADS",
    "AutoregressiveHead",
    "DenseHead",
    "Head",
    "LigerHead",
    "ParallelHead",
    "RegressionHead",
    "TokenHead",
    "register",
]
