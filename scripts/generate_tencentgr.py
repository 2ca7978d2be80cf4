"""Write a synthetic download of TencentGR, in either of its layouts.

    python scripts/generate_tencentgr.py downloads/tencentgr --users 50000

The real files cannot be shipped; these have their names, columns, types and statistics, and
structure to learn. `genrec prepare tencentgr` reads both alike. Prints seconds, bytes and peak
memory; `--help` shows the options.
"""

from __future__ import annotations

import resource
import time

from jsonargparse import auto_cli

from genrec.data.tencentgr import generate_tencentgr


def main() -> None:
    started = time.perf_counter()
    folder = auto_cli(generate_tencentgr, set_defaults={"progress": True})
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{folder}: {seconds:.0f} s, {size / 1e9:.2f} GB, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
