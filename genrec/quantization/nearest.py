"""Nearest codes, the same on every machine, thread count and batch size.

Scores come from float32 matrix products, whose last bits depend on block shape and threads. Rows
whose runner-up lies within the rounding error are therefore decided again in float64, pair by pair.
A processor with bfloat16 products in hardware makes the scores with these first, in half the time,
and only pairs within their rounding error are scored in float32: the codes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_EPS = float(torch.finfo(torch.float32).eps)
_WIDE = torch.float64
_SCORES = 2**21  # scores of one block: small enough to stay in the processor's cache
_TABLE = 2**24  # cross table entries above which residuals are written out instead
_PAIRS = 2**18  # float64 numbers of one block of the second look
_DOTS = 2**18  # float32 numbers of one block of refined scores
_HALF = 2.0**-8  # largest relative error of rounding to bfloat16
_HALF_WIDTH = 128  # shorter vectors are not worth a second look


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # of torch, where it knows
    known = [getattr(torch.cpu, name, None) for name in asked]
    return torch.backends.mkldnn.is_available() and any(has is not None and has() for has in known)


def refine(
    scores: Tensor,
    tolerance: Tensor,
    better: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    room: Tensor,
) -> None:
    """Replace rough scores by better ones in the rows whose best is not beyond doubt, in place.

    Args:
        scores: float32 [n, K], larger is nearer. In rows with several codes within the tolerance
            these get better scores and all others -inf.
        tolerance: [n], largest error of the difference of two scores of a row.
        better: (rows [m], codes [m], scores [m]) -> better scores [m].
        room: float32 [n, K], overwritten.
    """
    near = torch.ge(scores, (scores.amax(dim=1) - tolerance)[:, None], out=room)
    rows = (near.sum(dim=1) > 1).nonzero()[:, 0]
    if len(rows) == 0:
        return
    row, candidate = near[rows].nonzero(as_tuple=True)
    row = rows[row]
    refined = better(row, candidate, scores[row, candidate])
    scores[rows] = float("-inf")
    scores[row, candidate] = refined


def resolve(
    scores: Tensor,
    tolerance: Tensor,
    exact: Callable[[Tensor, Tensor], Tensor],
    slack: Tensor | None = None,
) -> Tensor:
    """Index of the best score of each row; near ties are decided by exact distances.

    Args:
        scores: float32 [n, K], larger is nearer; overwritten.
        tolerance: [n], largest rounding error of the difference of two scores of a row.
        exact: (rows [m], codes [m]) -> float64 squared distances [m].
        slack: float64 [n], exact distances this close count as equal; none by default.

    Returns:
        int64 [n]; of several codes at an equal exact distance, the smallest.
    """
    size = scores.shape[1]
    floor = (scores.amax(dim=1) - tolerance)[:, None]
    # Ones at or above the floor: mostly a single one, whose place is the product with 0, 1, 2, ...
    near = torch.ge(scores, floor, out=scores)
    codes = torch.mv(near, torch.arange(size, device=scores.device, dtype=scores.dtype)).long()
    rows = (near.sum(dim=1) > 1).nonzero()[:, 0]
    if len(rows) == 0:
        return codes
    row, candidate = near[rows].nonzero(as_tuple=True)
    distance = exact(rows[row], candidate)
    least = distance.new_full((len(rows),), float("inf"))
    least.scatter_reduce_(0, row, distance, "amin")
    if slack is not None:
        least += slack[rows]
    candidate = torch.where(distance <= least[row], candidate, size)
    codes[rows] = codes.new_full((len(rows),), size).scatter_reduce_(0, row, candidate, "amin")
    return codes


def pair_distances(
    left: Callable[[Tensor], Tensor], rows: Tensor, codebook: Tensor, codes: Tensor
) -> Tensor:
    """Float64 squared distances of (row, code) pairs, `left(rows)` giving float64 vectors."""
    out = torch.empty(len(rows), dtype=torch.float64, device=codebook.device)
    size = max(1, _PAIRS // codebook.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        gap = left(rows[part]) - codebook[codes[part]].double()
        out[part] = gap.square_().sum(dim=1)
    return out


def score_bias(codebook: Tensor) -> Tensor:
    """-|c|^2 / 2 of each code, -inf for a code that repeats an earlier one: it is never chosen."""
    bias = codebook.square().sum(dim=1).mul_(-0.5)
    if len(bias.unique()) == len(bias):
        return bias
    _, group = torch.unique(codebook, dim=0, return_inverse=True)
    index = torch.arange(len(codebook), device=codebook.device)
    first = torch.full_like(index, len(codebook)).scatter_reduce_(0, group, index, "amin")
    return bias.masked_fill_(first[group] != index, float("-inf"))


class ResidualSearch:
    """Greedy residual codes: each level takes the code nearest to what the levels before left.

    x . [C_1; ...; C_L] is computed once; the score of code c on level l is then
    x.c - |c|^2 / 2 - sum over p < l of c_p.c, the last from tables [K_p, K_l] (the first of a level
    holds |c|^2 / 2 too), so residuals are never written. Where the tables would be large, they are.

    Args:
        codebooks: float32 [K_l, d] per level, on one device.
        center: subtract the mean of the first codebook first if it lies far from the origin (less
            cancellation).
        half: make scores with bfloat16 products first; by default where the processor has them and
            vectors are long enough. It changes the time, never a code.
    """

    def __init__(
        self, codebooks: Sequence[Tensor], *, center: bool = True, half: bool | None = None
    ) -> None:
        self.codebooks = list(codebooks)
        first = self.codebooks[0]
        mean = first.double().mean(dim=0).float()
        # A mean that is short beside the codes costs no precision; the subtraction costs time.
        far = center and bool(mean.norm() > (first - mean).norm(dim=1).max())
        self.center = mean if far else None
        shifted = [first if self.center is None else first - self.center, *self.codebooks[1:]]
        self.bias = [score_bias(codebook) for codebook in shifted]
        self.reach = [float(codebook.norm(dim=1).max()) for codebook in shifted]
        self.shifted = shifted
        sizes = [len(codebook) for codebook in shifted]
        self.starts = [sum(sizes[:level]) for level in range(len(sizes) + 1)]
        self.stacked: Tensor | None = None
        self.tables: list[list[Tensor]] = []
        crossed = sum(a * b for level, b in enumerate(sizes) for a in sizes[:level])
        if crossed <= _TABLE:
            self.stacked = torch.cat(shifted)
            for level, codebook in enumerate(shifted):
                self.tables.append([shifted[p] @ codebook.T for p in range(level)])
                if level:
                    self.tables[level][0] -= self.bias[level]
        if half is None:
            half = first.device.type == "cpu" and first.shape[1] >= _HALF_WIDTH and has_bfloat16()
        self.half = [codebook.bfloat16() for codebook in shifted] if half else []
        # Of the difference of two codes, and of what rounding took from it, at most so long.
        self.spread = [_diameter(codebook) for codebook in shifted] if half else []
        self.lost = [
            _diameter(codebook - rounded.float())
            for codebook, rounded in zip(shifted, self.half, strict=half)
        ]
        if half and self.stacked is not None:
            self.half = [torch.cat(self.half)]
        self.widths = [self.starts[-1]] if self.stacked is not None else sizes
        widest = max(*self.widths, first.shape[1] if half else 0)
        self.rows = max(64, min(65_536, _SCORES // widest))

    def codes(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        """Codes int64 [n, L] of vectors [n, d].

        Args:
            x: the vectors, on the codebooks' device. Float64 vectors are taken as computed, with
                last bits that may differ from run to run: distances that close are then ties.
            norms: [n] lengths of the (centred) vectors, where the caller has them.
        """
        out = torch.empty(len(x), len(self.codebooks), dtype=torch.int64, device=x.device)
        rows = min(self.rows, len(x))
        # Fresh memory costs a page fault for each 4 KiB, as much as a pass over it.
        sizes = [len(codebook) for codebook in self.shifted]
        room = _Room(rows, x.shape[1], self.widths, sizes, x.device, half=bool(self.half))
        center = self.center
        moved = torch.empty(0 if center is None else rows, x.shape[1], device=x.device)
        for start in range(0, len(x), self.rows):
            part = slice(start, start + self.rows)
            block, length = x[part], None if norms is None else norms[part]
            shifted = block.float()
            if center is not None:
                shifted = torch.sub(shifted, center, out=moved[: len(block)])
            self._block(block, shifted, length, room, out[part])
        return out

    def _block(
        self, x: Tensor, shifted: Tensor, norms: Tensor | None, room: _Room, out: Tensor
    ) -> None:
        length = shifted.norm(dim=1) if norms is None else norms
        products = self._products(shifted, 0, room) if self.stacked is not None else None
        before = 0.0
        for level, codebook in enumerate(self.shifted):
            made = self._products(shifted, level, room) if products is None else products
            part = slice(0, len(codebook))
            if products is not None:
                part = slice(self.starts[level], self.starts[level + 1])
            scores, rough = made.scores[:, part], made.rough[:, part]
            largest = torch.maximum(scores.amax(dim=1), -scores.amin(dim=1)) if self.half else None
            if products is None or level == 0:
                scores += self.bias[level]
            else:
                for earlier, table in enumerate(self.tables[level]):
                    scores -= table.index_select(0, out[:, earlier])
            reach = self.reach[level]
            error = (x.shape[1] + 2 * level + 8) * _EPS
            tolerance = (length + (before + reach)).mul_(error * reach)
            before += reach
            if largest is not None:
                rounding = made.rounding
                doubt = rounding * self.spread[level] + (length + rounding) * self.lost[level]
                doubt += tolerance + (2.02 * _HALF) * largest
                flags = room.flags[level][: len(x)]
                refine(scores, doubt, _better(shifted, codebook, rough), room=flags)
            slack = (length + before).double().square_() * 1e-11 if x.dtype == _WIDE else None
            out[:, level] = resolve(scores, tolerance, self._exact(x, out, level), slack)
            if products is None:
                shifted = shifted - codebook[out[:, level]]

    def _products(self, shifted: Tensor, level: int, room: _Room) -> _Products:
        """Products of the vectors with the codes of a level, or of all levels where stacked."""
        n = len(shifted)
        scores = room.scores[level][:n]
        if not self.half:
            codebook = self.shifted[level] if self.stacked is None else self.stacked
            torch.mm(shifted, codebook.T, out=scores)
            return _Products(scores, scores, scores)
        rounded = room.rounded[:n].copy_(shifted)
        rough = torch.mm(rounded, self.half[level].T, out=room.rough[level][:n])
        lost = room.lost[:n].copy_(rounded).sub_(shifted)
        return _Products(scores.copy_(rough), rough, lost.norm(dim=1))

    def _exact(self, x: Tensor, out: Tensor, level: int) -> Callable[[Tensor, Tensor], Tensor]:
        def left(rows: Tensor) -> Tensor:
            rest = x[rows].double()
            for earlier in range(level):
                rest -= self.codebooks[earlier][out[rows, earlier]].double()
            return rest

        return lambda rows, codes: pair_distances(left, rows, self.codebooks[level], codes)


class _Products(NamedTuple):
    """Scores float32 [n, K]; before what is added to them, as computed; rounding error of x [n].

    The last two are read only where the products are of bfloat16.
    """

    scores: Tensor
    rough: Tensor
    rounding: Tensor


class _Room:
    """Buffers of one block of rows; `widths` of the products, `sizes` of the levels."""

    def __init__(
        self,
        rows: int,
        width: int,
        widths: Sequence[int],
        sizes: Sequence[int],
        device: torch.device,
        *,
        half: bool,
    ) -> None:
        self.scores = [torch.empty(rows, size, device=device) for size in widths]
        if half:
            kind: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
            self.rough = [torch.empty(rows, size, **kind) for size in widths]
            self.flags = [torch.empty(rows, size, device=device) for size in sizes]
            self.rounded = torch.empty(rows, width, **kind)
            self.lost = torch.empty(rows, width, device=device)


def _diameter(x: Tensor) -> float:
    """No two rows of x [K, d] are farther apart than this."""
    return 2.0001 * float((x - x.mean(dim=0)).norm(dim=1).max())


def _better(
    shifted: Tensor, codebook: Tensor, rough: Tensor
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Scores of (row, code) pairs with float32 products in the place of rough ones."""

    def better(rows: Tensor, codes: Tensor, scores: Tensor) -> Tensor:
        out = scores - rough[rows, codes]
        size = max(1, _DOTS // codebook.shape[1])
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            pairs = shifted.index_select(0, rows[part])
            out[part] += pairs.mul_(codebook.index_select(0, codes[part])).sum(dim=1)
        return out

    return better


def residual_distances(x: Tensor, prefix: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """Squared distances [n, K_l] of what `prefix` [n, l] leaves of x to every code of level l."""
    rest = x.double()
    for level in range(prefix.shape[1]):
        rest = rest - codebooks[level][prefix[:, level]].double()
    codebook = codebooks[prefix.shape[1]].double()
    center = codebook.mean(dim=0)
    rest, codebook = rest - center, codebook - center
    squares = rest.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
    return squares.sub_(2 * (rest @ codebook.T)).clamp_(min=0).float()
