"""`genrec bench`: side by side with the alternatives, on this machine. One function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genrec.pipeline.bench_quantize import bench_quantize

BENCHES: dict[str, Callable[..., Any]] = {"quantize": bench_quantize}
