"""Vectors to codes: one quantizer, one file, one paper."""

from genrec.quantization.base import QUANTIZERS, Quantizer, load_quantizer, make_quantizer, register
from genrec.quantization.hash_codes import HashCodes
from genrec.quantization.mhq import MHQ
from genrec.quantization.opq import OPQ
from genrec.quantization.random_codes import RandomCodes
from genrec.quantization.rq_kmeans import RQKMeans
from genrec.quantization.rq_kmeans_plus import RQKMeansPlus
from genrec.quantization.rq_vae import RQVAE
from genrec.registry import import_parts

import_parts(__name__, __path__)

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
