"""One level of a constrained search: the best children of every user's beams.

Back ends with the same results: torch operations, which run on any device (on the CPU numpy ranks
the few that torch found, unless ``"torch-only"`` is asked for), a kernel compiled by numba for the
CPU, and one written in Triton for CUDA. The compiled ones are taken where they can run, unless
asked otherwise.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Literal, get_args

import torch
from torch import Tensor

from genrec.decoding.codes import checked_count
from genrec.decoding.cpu_step import cpu_step
from genrec.decoding.exclusions import Exclusions
from genrec.decoding.expansion import Expansion, Step
from genrec.decoding.filters import Filter
from genrec.decoding.optional import installed
from genrec.decoding.torch_step import torch_step
from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError

Backend = Literal["auto", "torch", "torch-only", "compiled", "triton"]

MOST_TRITON = 2047  # beams that one Triton program can sort


def chosen_backend(backend: str, device: torch.device) -> str:
    """``"torch"``, ``"torch-only"``, ``"compiled"`` or ``"triton"``.

    Args:
        backend: ``"auto"`` takes the compiled one on the CPU if numba is installed, and Triton on
            CUDA if it is.
        device: where the trie is.

    Raises:
        ConfigError: for another name, or for one that cannot run there.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"backend={backend!r}: expected one of {', '.join(get_args(Backend))}")
    cpu, cuda = device.type == "cpu", device.type == "cuda"
    if backend in ("torch", "torch-only"):
        return backend
    if backend == "auto":
        if cpu and installed("numba"):
            return "compiled"
        return "triton" if cuda and _has_triton() else "torch"
    if backend == "compiled":
        there, runs, where = installed("numba"), cpu, "on the CPU only"
        hint = "numba is not installed; run: pip install 'genrec[fast]'"
    else:  # Triton's interpreter runs anywhere, slowly
        there, runs = _has_triton(), cuda or os.environ.get("TRITON_INTERPRET") == "1"
        where = "on CUDA only, or in its interpreter (TRITON_INTERPRET=1)"
        hint = "triton is not installed, or has no bitonic_merge yet; install a later one"
    if not there:
        missing = hint
    elif not runs:
        missing = f"the trie is on {device}, and it runs {where}"
    else:
        return backend
    raise ConfigError(f"backend={backend!r}: {missing}, or choose backend='torch'")


@functools.cache
def _has_triton() -> bool:
    """Whether triton is there, with what the kernels call."""
    if not installed("triton"):
        return False
    language = importlib.import_module("triton.language")
    return hasattr(language, "topk") and hasattr(language, "bitonic_merge")


def expand_beams(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    *,
    keep: int,
    exclude: Tensor | None = None,
    filter: Filter | None = None,
    floor: Tensor | None = None,
    renormalize: bool = False,
    logits: bool = False,
    backend: Backend = "auto",
) -> Step:
    """Extend the beams by one code and keep the best.

    Args:
        trie: the valid tuples.
        level: level of the code, 0 to L - 1.
        log_probs: ``[B, W, K_level]``, of any floating type; no gradient flows back.
        nodes: int64 ``[B, W]``, nodes of depth ``level``, different in a row; -1 where dead.
        scores: float32 ``[B, W]``.
        keep: most beams kept per user; may exceed the children.
        exclude: int64 ``[B, E]`` items never shown, padded with -1; give the same at each level.
        filter: the items that may be shown, for all users or per user; the same at each level.
        floor: float32 ``[B]``; children below it are dropped, and only as many beams come back as
            the user with the most children above it needs, one at least.
        renormalize: score by log-softmax over the existing children.
        logits: whether ``log_probs`` are logits, of which the log-sum-exp is to be taken off.
        backend: which implementation; the items are the same, scores agree up to rounding. Triton
            leaves steps with a ``floor``, whose number of beams the host must know, and those that
            keep more than 2,047 beams to torch.

    Raises:
        ConfigError: for a level that the trie has not, a ``keep`` below 1, tensors of other shapes,
            types or devices, nodes that the level has not (on the CPU; elsewhere the host does not
            wait for them), malformed exclusions, a filter of another trie or batch, or a back end
            that cannot run here.
    """
    level = checked_count(level, "level", least=0)
    if level >= trie.num_levels:
        raise ConfigError(f"level={level}: the trie's levels are 0 to {trie.num_levels - 1}")
    keep = checked_count(keep, "keep")
    if nodes.ndim != 2 or nodes.shape[1] == 0:
        raise ConfigError(
            f"nodes of shape {tuple(nodes.shape)}: expected [B, W], one beam a user at least"
        )
    _check_tensor("nodes", nodes, nodes.shape, torch.int64, trie)
    _check_tensor("scores", scores, nodes.shape, torch.float32, trie)
    if floor is not None:
        _check_tensor("floor", floor, nodes.shape[:1], torch.float32, trie)
    if not log_probs.is_floating_point() or log_probs.device != trie.device:
        raise ConfigError(
            f"log-probabilities of type {log_probs.dtype} on {log_probs.device}: expected a "
            f"floating type on the trie's device, {trie.device}"
        )
    if trie.device.type == "cpu" and nodes.numel():
        low, high = (int(of) for of in nodes.aminmax())
        if low < -1 or high >= trie.num_nodes[level]:
            raise ConfigError(
                f"nodes from {low} to {high}: level {level} extends the nodes 0 to "
                f"{trie.num_nodes[level] - 1} of depth {level}, and -1 where a beam is dead"
            )
    return extended(
        trie,
        level,
        log_probs,
        nodes,
        scores,
        keep=keep,
        excluded=Exclusions.from_items(trie, exclude, nodes.shape[0], filter),
        floor=floor,
        renormalize=renormalize,
        logits=logits,
        backend=backend,
    )


def _check_tensor(
    name: str, found: Tensor, shape: torch.Size, dtype: torch.dtype, trie: PrefixTrie
) -> None:
    if (found.shape, found.dtype, found.device) != (shape, dtype, trie.device):
        raise ConfigError(
            f"{name} of shape {tuple(found.shape)} and type {found.dtype} on {found.device}: "
            f"expected {tuple(shape)}, {dtype}, on {trie.device}, where the trie is"
        )


def extended(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    *,
    keep: int,
    excluded: Exclusions,
    floor: Tensor | None = None,
    renormalize: bool = False,
    logits: bool = False,
    backend: Backend = "auto",
) -> Step:
    """`expand_beams` for searches, whose beams come from steps: only log-probabilities are checked.

    Raises:
        ConfigError: for log-probabilities of another shape, or a back end that cannot run here.
    """
    expected = (*nodes.shape, trie.codebook_sizes[level])
    if log_probs.shape != expected:
        raise ConfigError(
            f"log-probabilities of shape {tuple(log_probs.shape)} at level {level}: "
            f"expected {expected}; was the model trained with another SID vocabulary?"
        )
    children = nodes.shape[1] * trie.max_branch[level]
    keep = max(1, min(keep, trie.num_nodes[level + 1], children))
    plain = log_probs.detach()
    given = Expansion(trie, level, plain, nodes, scores, excluded, keep, floor, renormalize, logits)
    chosen = chosen_backend(backend, trie.device)
    if chosen == "compiled":
        from genrec.decoding.compiled_step import compiled_step

        return compiled_step(given)
    if chosen == "triton" and floor is None and keep <= MOST_TRITON and nodes.numel():
        from genrec.decoding.triton_step import triton_step

        return triton_step(given)
    if chosen != "torch-only" and trie.device.type == "cpu":
        return cpu_step(given)
    return torch_step(given)


__all__ = ["Backend", "Step", "chosen_backend", "expand_beams", "extended"]
