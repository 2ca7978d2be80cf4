"""`genrec bench`: side by side with the alternatives, on this machine. One function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genrec.pipeline.bench_decode import bench_decode
from genrec.pipeline.bench_quantize import bench_quantize

BENCHES: dict[str, Callable[..., Any]] = {"decode": bench_decode, "quantize": bench_quantize}
