from __future__ import annotations

import platform

import torch

from genrec.allocator import keep_freed_memory


def test_the_allocator_takes_it_on_glibc_and_tensors_still_work() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    assert torch.ones(3000, 3000).sum().item() == 9_000_000
