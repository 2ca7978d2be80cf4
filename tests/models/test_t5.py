from __future__ import annotations

import logging

import pytest
import torch
from transformers import T5Config, T5Model

from genrec.errors import ConfigError
from genrec.models import SequenceMeta
from genrec.models.backbones import T5
from genrec.models.backbones.lengths import alike

WIDTH = 16


@torch.no_grad()
def test_states_are_those_of_transformers_own_model() -> None:
    """One sample after another through `T5Model`, without padding or groups."""
    torch.manual_seed(0)
    ours = T5(
        d_model=WIDTH, max_length=40, layers=2, decoder_layers=3, heads=2, head_width=6, ffn=9
    )
    for parameter in ours.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    config = T5Config(
        d_model=WIDTH, d_kv=6, d_ff=9, num_layers=2, num_decoder_layers=3, num_heads=2, vocab_size=1
    )
    theirs = T5Model(config).eval()
    theirs.encoder.load_state_dict(ours.encoder.state_dict(), strict=False)
    theirs.decoder.load_state_dict(ours.decoder.state_dict(), strict=False)
    lengths = torch.tensor([39, 3, 20])
    embeddings = torch.randn(3, 39, WIDTH)
    meta = SequenceMeta.from_mask(torch.arange(39) < lengths[:, None])
    row = torch.tensor([0, 0, 1, 2, 0, 2])
    start = torch.tensor([36, 2, 1, 7, 30, 17])
    states = ours.block_states(embeddings, meta, row=row, start=start, length=4)
    for found, one, begin in zip(states, row.tolist(), start.tolist(), strict=True):
        written = torch.cat([ours.start[None], embeddings[one, begin : begin + 3]])
        expected = theirs(
            inputs_embeds=embeddings[one : one + 1, :begin], decoder_inputs_embeds=written[None]
        ).last_hidden_state[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_parameter_count() -> None:
    """TIGER's shape: 4 + 4 blocks, width 128, 6 heads of 64, 1024 inside."""
    model = T5(d_model=128, max_length=84, layers=4, heads=6, head_width=64, ffn=1024)
    attention, inside = 4 * 128 * 6 * 64, 2 * 128 * 1024
    encoder = 4 * (attention + inside + 2 * 128)
    decoder = 4 * (2 * attention + inside + 3 * 128)
    rest = 2 * 128 + 2 * 32 * 6 + 128  # last norms, position biases, start token
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder + rest


def test_groups_hold_everything_once_and_are_of_like_length() -> None:
    lengths = torch.randint(1, 60, (100,), generator=torch.Generator().manual_seed(0))
    groups = list(alike(lengths))
    assert sorted(torch.cat(groups).tolist()) == list(range(100))
    assert len(groups) < 12
    for group in groups:
        assert lengths[group].max() <= 1.5 * lengths[group].min() + 1
    assert list(alike(lengths[:0])) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "does not divide"),
        ({"layers": 0}, "layers=0"),
        ({"feed_forward": "silu"}, "feed_forward='silu'"),
        ({"buckets": 31}, "buckets=31"),
        ({"max_distance": 8}, "max_distance=8"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        T5(d_model=WIDTH, max_length=9, **options)


def test_building_one_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    # T5's usual tokens for padding and the end are outside its vocabulary: transformers warns.
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        T5(d_model=16, layers=1, heads=2, max_length=8)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
