"""Vectors to codes: one quantizer, one file, one paper."""

import importlib
import pkgutil

from genrec.quantization.base import QUANTIZERS, Quantizer, load_quantizer, make_quantizer, register
from genrec.quantization.hash_codes import HashCodes
from genrec.quantization.mhq import MHQ
from genrec.quantization.opq import OPQ
from genrec.quantization.random_codes import RandomCodes
from genrec.quantization.rq_kmeans import RQKMeans
from genrec.quantization.rq_kmeans_plus import RQKMeansPlus
from genrec.quantization.rq_vae import RQVAE

# A quantizer is known once its file is there.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "MHQ",
    "OPQ",
    "QUANTIZERS",
    "RQVAE",
    "HashCodes",
    "Quantizer",
    "RQKMeans",
    "RQKMeansPlus",
    "RandomCodes",
    "load_quantizer",
    "make_quantizer",
    "register",
]
