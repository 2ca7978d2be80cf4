"""TencentGR: its files, a generator of the same files, ids, pool, protocol and submission."""

from genrec.data.tencentgr.generate import generate_tencentgr
from genrec.data.tencentgr.indexer import Indexer, read_indexer

__all__ = ["Indexer", "generate_tencentgr", "read_indexer"]
