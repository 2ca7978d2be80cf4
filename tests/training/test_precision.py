from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from genrec.models import Recommender, RecommenderConfig
from genrec.training.trainer import full_precision


def test_validation_runs_in_fp32_and_training_goes_on_in_bf16() -> None:
    model = Recommender(RecommenderConfig(num_items=9, d_model=8, max_history=4)).eval()
    items, mask = torch.arange(8).view(2, 4), torch.ones(2, 4, dtype=torch.bool)
    exact = model(items=items, mask=mask).hidden
    AcceleratorState._reset_state(reset_partial_state=True)  # other tests trained in this process
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    wrapped = accelerator.unwrap_model(accelerator.prepare_model(model))
    rough = wrapped(items=items, mask=mask).hidden
    assert not torch.equal(rough, exact)
    with full_precision(wrapped):
        assert torch.equal(wrapped(items=items, mask=mask).hidden, exact)
    assert torch.equal(wrapped(items=items, mask=mask).hidden, rough)
    AcceleratorState._reset_state(reset_partial_state=True)
