"""Write a synthetic download of TencentGR, in either of its layouts.

    python scripts/generate_tencentgr.py downloads/tencentgr --users 50000

The real files cannot be shipped; these have their names, columns, types and statistics, and
structure to learn. `genrec prepare tencentgr` reads both alike. Prints seconds, bytes and peak
memory, then what is in the files beside what was published of the real ones; `--help` shows the
options.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping

from jsonargparse import auto_cli

from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.statistics import PUBLISHED, history_statistics


def table(found: Mapping[str, float]) -> list[str]:
    """A line for each statistic: measured, published, and whether it is in the range aimed at."""
    actions = "10M" if found["conversions, share of known actions"] else "1M"
    published = {one.what: one for one in PUBLISHED[actions]}
    head = f"published of TencentGR-{actions}, how items are spread of -1M, and the range aimed at"
    lines = [f"{'':50} {'measured':>10}  {head}"]
    for what, value in found.items():
        line = f"{what:50} {value:10,.4g}" if value < 1_000 else f"{what:50} {value:10,.0f}"
        if what in published:
            one = published[what]
            inside = "inside" if one.low <= value <= one.high else "OUTSIDE"
            line += f"  {one.said}; {inside} {one.low:g} to {one.high:g}"
        lines.append(line)
    return lines


def main() -> None:
    started = time.perf_counter()
    folder = auto_cli(generate_tencentgr, set_defaults={"progress": True})
    seconds, spent = time.perf_counter() - started, time.process_time()
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{folder}: {seconds:.0f} s ({spent:.0f} s of processor time), {size / 1e9:.2f} GB, "
        f"peak memory {peak:.2f} GiB"
    )
    print("\n".join(table(history_statistics(folder))))


if __name__ == "__main__":
    main()
