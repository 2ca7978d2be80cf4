"""One knob of the C allocator that large tensors on a CPU care about."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 2_000_000_000


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks for the next tensor instead of returning them to the system.

    By default every tensor above a few MB is mapped and unmapped anew, and each page of it faults
    on first use; on a CPU that costs more than the arithmetic of a small model. The peak of the
    process does not grow, but it keeps what it once used. Commands call this; importing genrec
    never does.

    Returns:
        Whether the allocator took it (glibc on Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    done = [mallopt(name, _LARGE) for name in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return done == [1, 1]
