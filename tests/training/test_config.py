from __future__ import annotations

import pytest

from genrec.errors import ConfigError
from genrec.training import TrainingConfig


def test_the_defaults_make_sense():
    assert TrainingConfig() == TrainingConfig(epochs=30)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("gradient_accumulation", 0, "at least 1"),
        ("eval_epochs", 0, "at least 1"),
        ("beam_width", 0, "at least 1"),
        ("weight_decay", -0.1, "0 or more"),
        ("weight_decay", float("nan"), "a finite number"),
        ("learning_rate", float("inf"), "a finite number"),
        ("max_grad_norm", -1.0, "0 or more"),
        ("eval_users", -1, "0 or more"),
        ("patience", -1, "0 or more"),
        ("workers", -1, "0 or more"),
        ("by_length", -1, "0 or more"),
        ("crop", 1.5, "from 0 to 1"),
        ("shuffle", -0.5, "from 0 to 1"),
        ("crop_share", 0.0, "above 0"),
        ("shuffle_share", 2.0, "above 0"),
        ("learning_rate", 0.0, "above 0"),
        ("table_learning_rate", 0.0, "above 0"),
        ("muon_learning_rate", -1.0, "above 0"),
        ("muon_learning_rate", 0.1, "set optimizer: muon or leave it out"),
        ("optimizer", "adam", "adamw, muon"),
        ("table_optimizer", "muon", "adamw, sparse-adam, adagrad, rowwise-adagrad"),
        ("warmup", 1.0, "from 0 to 1"),
        ("average", 1.0, "below 1"),
        ("adam_beta2", 1.0, "below 1"),
        ("seed", -1, "from 0 to 4294967295"),
        ("seed", 2**32, "from 0 to 4294967295"),
        ("schedule", "cosin", "constant, linear, cosine"),
        ("precision", "fp8", "fp32, bf16, fp16"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(name, value, expected):
    with pytest.raises(ConfigError, match=f"training: {name}={value!r}") as raised:
        TrainingConfig(**{name: value})
    assert expected in str(raised.value)
