"""Products of states with items of their own, looked up a block of states at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

BLOCK_BYTES = {"cpu": 2**21, "default": 2**28}  # of vectors: a CPU's cache, a share of a GPU


def own_products(states: torch.Tensor, items: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Products float32 `[M, n]` of each state with n items of its own, in float32 throughout.

    Equal to `(states[:, None] * items[places]).sum(-1)` and its gradients.

    Args:
        states: float `[M, D]`.
        items: float `[U, D]`.
        places: int64 `[M, n]`, rows of `items`; one may come twice.

    Cost: `3 M n D` multiply-adds, forward and gradient together, and a sort of `places`. Memory:
    the vectors of one block of states (of one state at least), where `items[places]` would hold
    `M n D`; a few numbers for each of `places`; and the gradients of states and items. A gradient
    is a sum in a fixed order, so that it repeats itself on every device.
    """
    products: torch.Tensor = _OwnProducts.apply(states, items, places)
    return products


class _OwnProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, items: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(states, items, places)
        states, items = states.float(), items.float()
        products = states.new_empty(places.shape)
        budget = BLOCK_BYTES.get(states.device.type, BLOCK_BYTES["default"])
        rows = max(1, budget // max(1, 4 * places.shape[1] * items.shape[1]))
        for start in range(0, len(states), rows):
            some = slice(start, start + rows)
            products[some] = (F.embedding(places[some], items) * states[some, None]).sum(-1)
        return products

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        states, items, places = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_states = of_items = None
        if ctx.needs_input_grad[0]:
            of_states = F.embedding_bag(
                places, items.float(), mode="sum", per_sample_weights=gradient
            ).to(states.dtype)
        if ctx.needs_input_grad[1]:
            sorted_places, order = places.flatten().sort(stable=True)
            row = torch.arange(len(items), device=items.device)
            of_items = F.embedding_bag(
                order // places.shape[1],
                states.float(),
                torch.searchsorted(sorted_places, row),
                mode="sum",
                per_sample_weights=gradient.flatten()[order],
            ).to(items.dtype)
        return of_states, of_items, None
