from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from genrec.data import Histories, TrainingBatches, TrainingSequences, leave_one_out
from genrec.errors import ArtefactError, ConfigError, GenrecError
from genrec.models import HEADS, Recommender
from genrec.models.heads.dense import DenseHead
from genrec.training import TrainingConfig, train_model
from genrec.training.arguments import training_arguments
from genrec.training.trainer import RecommenderTrainer


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def log_of(output):
    return json.loads((output / "log.json").read_text())


def test_the_model_with_the_best_validation_comes_back(bench, tmp_path):
    model = bench.train(tmp_path, script=[0.1, 0.3, 0.2, 0.3])
    assert len(bench.seen) == 4
    assert equal(weights(model), bench.seen[1])
    assert not equal(weights(model), bench.seen[3])
    best = json.loads((tmp_path / "checkpoints" / "best" / "validation.json").read_text())
    assert best["ndcg@10"] == 0.3
    assert best["epoch"] == 2


def test_loss_falls_and_is_logged_beside_the_validations(bench, tmp_path):
    bench.train(tmp_path, epochs=6)
    losses = [entry["loss"] for entry in log_of(tmp_path) if "loss" in entry]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert len([entry for entry in log_of(tmp_path) if "eval_ndcg@10" in entry]) == 6


def test_patience_stops_after_so_many_validations_without_a_better_one(bench, tmp_path):
    bench.train(tmp_path, script=[0.1, 0.3, 0.2, 0.3, 0.25, 0.9], epochs=6, patience=3)
    assert len(bench.seen) == 5


def test_a_better_validation_renews_the_patience(bench, tmp_path):
    bench.train(tmp_path, script=[0.3, 0.2, 0.4, 0.1, 0.5, 0.1], epochs=6, patience=2)
    assert len(bench.seen) == 6


def test_epochs_between_validations_and_one_after_the_last_epoch(bench, tmp_path):
    bench.train(tmp_path / "a", epochs=5, eval_epochs=2)
    assert [e["epoch"] for e in log_of(tmp_path / "a") if "eval_ndcg@10" in e] == [2, 4, 5]
    bench.train(tmp_path / "b", epochs=1, eval_epochs=3)
    assert [e["epoch"] for e in log_of(tmp_path / "b") if "eval_ndcg@10" in e] == [1]


def test_the_average_is_what_is_validated_and_kept(bench, tmp_path):
    plain = bench.train(tmp_path / "a", epochs=1)
    seen = bench.seen[0]
    averaged = bench.train(tmp_path / "b", epochs=1, average=0.99)
    assert equal(weights(averaged), bench.seen[0])
    assert not equal(weights(averaged), seen)
    assert equal(weights(plain), seen)


class Weighted(DenseHead):
    """Counts every third item three times."""

    def event_loss(self, hidden, targets, actions, *, seen=None):
        scores = self.scores(hidden, self.candidates())
        each = torch.nn.functional.cross_entropy(scores, targets, reduction="none")
        return (each * self.weights_of(targets)).sum() / self.mass(targets, actions)

    def mass(self, targets, actions):
        return self.weights_of(targets).sum()

    def weights_of(self, targets):
        return 1.0 + 2.0 * (targets % 3 == 0)


@pytest.mark.parametrize("head", ["dense", "weighted"])
def test_batches_accumulate_to_the_larger_batch(bench, tmp_path, monkeypatch, head):
    """Also where they have other numbers of labels, and where the last step has fewer batches."""

    def descent(trainer):
        # Without Adam's division, which turns rounding at tiny gradients into steps.
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.5)
        return trainer.optimizer

    monkeypatch.setitem(HEADS, "weighted", Weighted)
    monkeypatch.setattr(RecommenderTrainer, "create_optimizer", descent)
    offsets = np.concatenate([[0], np.cumsum(np.random.default_rng(1).integers(4, 13, 44))])
    histories = Histories(offsets, np.random.default_rng(0).integers(0, 150, offsets[-1]))
    sequences = TrainingSequences(histories, leave_one_out(histories), max_length=12)
    bench.dropout, bench.head = 0.0, {"type": head}
    found, losses = [], []
    for batch, accumulate in ((16, 1), (8, 2), (4, 4)):
        folder = tmp_path / str(batch)
        config = TrainingConfig(
            batch_size=batch,
            gradient_accumulation=accumulate,
            epochs=2,
            eval_epochs=2,
            max_grad_norm=0.0,
        )
        best = train_model(
            bench.build, sequences, lambda _: {"ndcg@10": 0.0}, folder, config, progress=False
        )
        found.append(weights(Recommender.from_pretrained(best)))
        losses.append([entry["loss"] for entry in log_of(folder) if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(found[2][name], whole, rtol=0, atol=1e-6)


def test_one_seed_gives_one_result_and_another_seed_another(bench, tmp_path):
    first, again, other = (
        bench.train(tmp_path / str(n), epochs=2, seed=seed) for n, seed in enumerate((1, 1, 2))
    )
    assert equal(weights(first), weights(again))
    assert not equal(weights(first), weights(other))


def test_bf16_trains_on_a_cpu(bench, tmp_path):
    bench.train(tmp_path, epochs=2, precision="bf16")
    losses = [entry["loss"] for entry in log_of(tmp_path) if "loss" in entry]
    assert np.isfinite(losses).all()


def test_fp16_without_an_accelerator_is_refused(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"fp16.*accelerator"):
        bench.train(tmp_path, precision="fp16")


def test_a_diverged_training_says_what_to_do(bench, tmp_path):
    with pytest.raises(GenrecError, match=r"diverged before step \d+: .*learning_rate below 1e\+3"):
        bench.train(tmp_path, epochs=3, learning_rate=1e30, max_grad_norm=0.0)


def test_nothing_to_train_on_is_said(bench, tmp_path):
    with pytest.raises(ConfigError, match="no training sequences"):
        train_model(
            bench.build, [], bench.validate, tmp_path, TrainingConfig(epochs=1), progress=False
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"average": 0.9},
        {"crop": 0.8, "shuffle": 0.8, "by_length": 3},
        {"head": {"type": "dense", "loss": "infonce", "negatives": 5}, "gradient_accumulation": 2},
    ],
    ids=["plain", "average", "augmented", "drawing"],
)
@pytest.mark.parametrize("stop_at", [2, 3])
def test_an_interrupted_training_goes_on_to_the_same_result(bench, tmp_path, stop_at, options):
    whole = bench.train(tmp_path / "whole", **options)
    seen = bench.seen
    with pytest.raises(KeyboardInterrupt):
        bench.train(tmp_path / "cut", stop_at=stop_at, **options)
    resumed = bench.train(tmp_path / "cut", **options)
    assert len(bench.seen) == 4 - (stop_at - 1)
    assert equal(bench.seen[-1], seen[-1])
    assert equal(weights(resumed), weights(whole))
    keys = ("epoch", "loss", "eval_ndcg@10", "learning_rate")
    plain = [
        [{key: e[key] for key in keys if key in e} for e in log_of(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert [e for e in plain[0] if "eval_ndcg@10" in e] == [
        e for e in plain[1] if "eval_ndcg@10" in e
    ]
    assert [e for e in plain[0] if "loss" in e] == [e for e in plain[1] if "loss" in e]


@pytest.mark.parametrize("option", ["crop", "shuffle"])
def test_augmented_sequences_train_another_model_each_epoch_anew(bench, tmp_path, option):
    plain = bench.train(tmp_path / "plain", epochs=2, dropout=0.0)
    changed = bench.train(tmp_path / "changed", epochs=2, dropout=0.0, **{option: 1.0})
    assert not equal(weights(plain), weights(changed))


def test_batches_by_length_hold_the_same_sequences_with_the_same_losses(bench):
    bench.dropout = 0.0
    model = bench.build().eval()
    sequences = TrainingSequences(bench.data.histories, bench.split, max_length=12)
    found, padded = [], []
    for by_length in (0, 4):
        batches = TrainingBatches(sequences.lengths, batch_size=16, by_length=by_length)
        total = labels = places = 0
        for numbers in batches:
            batch = sequences.__getitems__(numbers)
            count = int((batch["labels"] >= 0).sum())
            with torch.no_grad():
                total += float(model(**batch).loss) * count
            labels, places = labels + count, places + batch["mask"].numel()
        found.append(total / labels)
        padded.append(places)
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert padded[1] < padded[0]


def test_resume_false_starts_over(bench, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        bench.train(tmp_path, stop_at=3)
    bench.train(tmp_path, resume=False)
    assert len(bench.seen) == 4


def test_a_run_out_of_patience_stays_so_after_a_kill(bench, tmp_path):
    script = [0.3, 0.2, 0.1, 0.9]
    model = bench.train(tmp_path, script=script, patience=2)
    assert len(bench.seen) == 3
    (tmp_path / "log.json").unlink()  # as if it had been killed right after its last checkpoint
    again = bench.train(tmp_path, script=[0.9], patience=2)
    assert bench.seen == []
    assert equal(weights(model), weights(again))
    assert len([e for e in log_of(tmp_path) if "eval_ndcg@10" in e]) == 3


def test_a_finished_training_is_not_trained_further(bench, tmp_path):
    model = bench.train(tmp_path)
    again = bench.train(tmp_path)
    assert bench.seen == []
    assert equal(weights(model), weights(again))


@pytest.mark.parametrize(
    "spoil",
    ["trainer_state.json", "optimizer.pt", "average.safetensors", "truncated state"],
)
def test_checkpoints_that_were_not_written_to_their_end_are_skipped(bench, tmp_path, spoil):
    whole = bench.train(tmp_path / "whole", average=0.9)
    with pytest.raises(KeyboardInterrupt):
        bench.train(tmp_path / "cut", average=0.9, stop_at=4)
    folder = tmp_path / "cut" / "checkpoints"
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    half = folder / "checkpoint-900"
    half.mkdir()
    for file in newest.iterdir():
        (half / file.name).write_bytes(file.read_bytes())
    if spoil == "truncated state":
        state = half / "trainer_state.json"
        state.write_text(state.read_text()[:200])
    else:
        (half / spoil).unlink()
    resumed = bench.train(tmp_path / "cut", average=0.9)
    assert len(bench.seen) == 1
    assert equal(weights(resumed), weights(whole))
    assert not half.exists()


def test_a_full_disk_says_what_to_do_and_training_goes_on_afterwards(bench, tmp_path, monkeypatch):
    whole = bench.train(tmp_path / "whole")
    for place, error in (
        ("torch.save", RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")),
        ("torch.save", OSError(28, "No space left on device")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, _raise(error))
            with pytest.raises(ArtefactError, match=r"writing a checkpoint failed.*go(es)? on"):
                bench.train(tmp_path / "full")
    resumed = bench.train(tmp_path / "full")
    assert equal(weights(resumed), weights(whole))


def test_other_errors_of_training_are_not_mistaken_for_a_full_disk(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.save", _raise(RuntimeError("CUDA out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        bench.train(tmp_path)


def _raise(error):
    def call(*args, **kwargs):
        raise error

    return call


def test_several_gpus_without_a_launcher_are_one_device(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    arguments = training_arguments(TrainingConfig(batch_size=64), tmp_path, 5, progress=False)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 64
