"""Vectors to codes: one quantizer, one file, one paper."""

from genrec.quantization.base import QUANTIZERS, Quantizer, load_quantizer, make_quantizer, register
from genrec.quantization.opq import OPQ
from genrec.quantization.rq_kmeans import RQKMeans
from genrec.quantization.rq_vae import RQVAE

__all__ = [
    "OPQ",
    "QUANTIZERS",
    "RQVAE",
    "Quantizer",
    "RQKMeans",
    "load_quantizer",
    "make_quantizer",
    "register",
]
