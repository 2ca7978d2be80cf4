"""Heads: hidden state -> scores, one file each, all behind `Head`."""

from genrec.models.heads.autoregressive import AutoregressiveHead
from genrec.models.heads.base import Head
from genrec.models.heads.dense import DenseHead
from genrec.models.heads.liger import LigerHead
from genrec.models.heads.parallel import ParallelHead
from genrec.models.heads.regression import RegressionHead
from genrec.models.heads.tokens import TokenHead

HEADS: dict[str, type[Head]] = {
    "autoregressive": AutoregressiveHead,
    "parallel": ParallelHead,
    "liger": LigerHead,
    "dense": DenseHead,
    "regression": RegressionHead,
    "tokens": TokenHead,
}

__all__ = [
    "HEADS",
    "AutoregressiveHead",
    "DenseHead",
    "Head",
    "LigerHead",
    "ParallelHead",
    "RegressionHead",
    "TokenHead",
]
