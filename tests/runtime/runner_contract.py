"""What every target's runner must do; a test class per target inherits it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_task import CHOICES, OPTIMIZERS, ROWS, SAMPLES, Compile, Net, batches, loss, metric, samples

from pockgraph.errors import ArtifactError, BatchError, NonFiniteLoss
from pockgraph.runtime import Trainer
from pockgraph.runtime.manifest import read_manifest


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def eager(plan: str, optimizer: str, steps: int) -> tuple[list[float], Net]:
    """The oracle: autograd and torch.optim, with the gradients of frozen channels set to zero."""
    net = Net()
    choice = CHOICES[plan]
    named = dict(net.named_parameters())
    options = {k: v for k, v in OPTIMIZERS[optimizer].to_dict().items() if k != "name"}
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    optim = kind([named[n] for n in choice], **options)
    losses = []
    initial = {n: p.detach().clone() for n, p in named.items()}
    for batch in batches(steps):
        value = loss(net, {k: torch.from_numpy(v) for k, v in batch.items()})
        optim.zero_grad()
        value.backward()
        optim.step()
        losses.append(value.item())
        with torch.no_grad():
            for name, channels in choice.items():
                if isinstance(channels, list):  # weight decay reached the frozen channels, too
                    frozen = [c for c in range(named[name].shape[1]) if c not in channels]
                    named[name][:, frozen] = initial[name][:, frozen]
    return losses, net


class RunnerContract:
    target: ClassVar[str]

    @pytest.fixture
    def folder(self, copied: Callable[..., Path]) -> Path:
        return copied(self.target)

    @pytest.fixture
    def trainer(self, compiled: Compile) -> Trainer:
        return self.load(compiled(self.target).path)

    def load(self, folder: Path) -> Trainer:
        return Trainer.load(folder, threads=1)

    # ------------------------------------------------------------ numbers

    @pytest.mark.parametrize(("plan", "optimizer"), list(itertools.product(CHOICES, ["sgd", "adamw"])))
    def test_steps_are_eager_pytorchs(self, compiled: Compile, plan: str, optimizer: str) -> None:
        trainer = self.load(compiled(self.target, plan, optimizer).path)
        losses, net = eager(plan, optimizer, 4)
        got = [trainer.step(b).loss for b in batches(4)]
        np.testing.assert_allclose(got, losses, rtol=1e-5)
        state = trainer.state()
        assert state.keys() == CHOICES[plan].keys()
        for name, tensor in state.items():
            np.testing.assert_allclose(tensor, net.get_parameter(name).detach(), rtol=1e-4, atol=1e-6)

    def test_a_step_says_loss_number_and_time(self, trainer: Trainer) -> None:
        first, second = (trainer.step(b) for b in batches(2))
        assert (first.step, second.step, trainer.steps) == (1, 2, 2)
        assert first.duration_ms > 0
        assert isinstance(first.loss, float)

    def test_the_optimizers_rate_is_the_default(self, trainer: Trainer) -> None:
        trainer.step(batches(1)[0])
        default = trainer.state()
        trainer.reset()
        trainer.step(batches(1)[0], lr=OPTIMIZERS["sgd"].lr)
        assert same(default, trainer.state())
        trainer.reset()
        trainer.step(batches(1)[0], lr=0.2)
        assert not same(default, trainer.state())

    def test_a_rate_of_zero_changes_no_weight(self, trainer: Trainer) -> None:
        before = trainer.state()
        trainer.step(batches(1)[0], lr=0.0)
        assert same(before, trainer.state())

    @pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
    def test_a_rate_must_be_a_number(self, trainer: Trainer, lr: float) -> None:
        with pytest.raises(BatchError, match="is no learning rate"):
            trainer.step(batches(1)[0], lr=lr)

    # ------------------------------------------------------------ batches

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"x": None}, ["'x' is missing", "x float32 [8, 3, 6, 6] and y int64 [8]"]),
            ({"x": None, "X": np.zeros(3)}, ["'x' is missing", "'X' is unexpected"]),
            ({"z": np.zeros(3)}, ["'z' is unexpected"]),
            ({"x": np.zeros((8, 3, 6, 7), np.float32)}, ["shape [8, 3, 6, 7] instead of [8, 3, 6, 6]"]),
            ({"x": np.zeros((8, 3, 6, 6), np.uint8)}, ["'x' holds uint8 instead of float32"]),
            ({"y": np.zeros(8, np.float32)}, ["'y' holds float32 instead of int64"]),
            ({"y": np.full(8, 2**63, np.uint64)}, ["'y' holds uint64 instead of int64"]),
            ({"y": np.array(["a"] * 8)}, ["not a number"]),
            ({"y": [[1], [1, 2]]}, ["'y'", "numpy"]),
        ],
    )
    def test_a_wrong_batch_is_refused(
        self, trainer: Trainer, change: dict[str, Any], words: list[str]
    ) -> None:
        before = trainer.state()
        batch = {k: v for k, v in (batches(1)[0] | change).items() if v is not None}
        with pytest.raises(BatchError) as e:
            trainer.step(batch)
        for word in words:
            assert word in str(e.value)
        assert "\n" not in str(e.value)
        assert trainer.steps == 0
        assert same(before, trainer.state())

    def test_numbers_of_one_kind_are_cast(self, trainer: Trainer) -> None:
        batch = batches(1)[0]
        plain = trainer.step(batch).loss
        trainer.reset()
        assert (
            trainer.step({"x": batch["x"].astype(np.float64), "y": batch["y"].astype(np.uint8)}).loss == plain
        )
        trainer.reset()
        assert trainer.step({k: torch.from_numpy(v) for k, v in batch.items()}).loss == plain

    def test_arrays_may_be_strided_or_read_only(self, trainer: Trainer) -> None:
        batch = batches(1)[0]
        plain = trainer.step(batch).loss
        strided = {"x": np.asfortranarray(batch["x"]), "y": np.repeat(batch["y"], 2)[::2]}
        for array in strided.values():
            array.setflags(write=False)
        trainer.reset()
        assert trainer.step(strided).loss == pytest.approx(plain, rel=1e-6)

    def test_a_batch_is_not_changed_nor_kept(self, trainer: Trainer) -> None:
        batch = {k: v.copy() for k, v in batches(1)[0].items()}
        first = trainer.step(batch).loss
        assert same(batch, batches(1)[0])
        batch["x"][:] = np.nan
        trainer.reset()
        assert trainer.step(batches(1)[0]).loss == first

    # ------------------------------------------------------------ evaluation

    def test_evaluation_is_the_metric_of_the_current_weights(self, trainer: Trainer) -> None:
        data = samples()
        ragged = [{k: v[i : i + ROWS].numpy() for k, v in data.items()} for i in range(0, SAMPLES, ROWS)]
        assert [len(b["y"]) for b in ragged] == [8, 8, 4]
        for steps in (0, 2):
            trainer.reset()
            for batch in batches(steps):
                trainer.step(batch)
            _, net = eager("sparse", "sgd", steps)
            expected = metric(net, data).detach().numpy()
            for _ in range(2):
                result = trainer.evaluate(iter(ragged))
                np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-6)
                assert result.samples == SAMPLES
                assert result.metric == pytest.approx(expected.mean(), rel=1e-4)

    def test_evaluation_leaves_training_alone(self, trainer: Trainer) -> None:
        plain = [trainer.step(b).loss for b in batches(3)]
        trainer.reset()
        mixed = []
        for batch in batches(3):
            trainer.evaluate([batch])
            mixed.append(trainer.step(batch).loss)
        assert mixed == plain

    def test_values_of_two_evaluations_are_apart(self, trainer: Trainer) -> None:
        one, other = (trainer.evaluate([b]).values for b in batches(2))
        assert not np.array_equal(one, other)

    def test_there_must_be_something_to_evaluate(self, trainer: Trainer) -> None:
        with pytest.raises(BatchError, match="empty"):
            trainer.evaluate([])
        with pytest.raises(BatchError, match=r"pass \[batch\]"):
            trainer.evaluate(batches(1)[0])
        x, y = samples()["x"].numpy(), samples()["y"].numpy()
        with pytest.raises(BatchError, match="20 samples"):
            trainer.evaluate([{"x": x, "y": y}])
        with pytest.raises(BatchError, match="0 samples"):
            trainer.evaluate([{"x": x[:0], "y": y[:0]}])
        with pytest.raises(BatchError, match="differ in their number of samples"):
            trainer.evaluate([{"x": x[:3], "y": y[:4]}])

    # ------------------------------------------------------------ state

    def test_state_is_whole_and_frozen_channels_stay(self, trainer: Trainer) -> None:
        before = trainer.state()
        for batch in batches(3):
            trainer.step(batch)
        after = trainer.state()
        initial = dict(Net().named_parameters())
        for name, tensor in before.items():
            assert np.array_equal(tensor, initial[name].detach().numpy())
            assert tensor.shape == after[name].shape
        changed = (before["conv2.weight"] != after["conv2.weight"]).any(axis=(0, 2, 3))
        assert changed.nonzero()[0].tolist() == CHOICES["sparse"]["conv2.weight"]

    def test_state_is_a_copy(self, trainer: Trainer) -> None:
        for tensor in trainer.state().values():
            tensor[:] = 7.0
        assert not any((t == 7.0).any() for t in trainer.state().values())

    def test_tensors_can_be_set(self, trainer: Trainer) -> None:
        before = trainer.state()
        head = np.full_like(before["head.weight"], 0.25)
        trainer.set_state({"head.weight": head, "conv2.weight": before["conv2.weight"]})
        assert same(trainer.state(), before | {"head.weight": head})
        assert trainer.changed

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("head.wieght", np.zeros((4, 6)), "no tensor of this model. Did you mean 'head.weight'"),
            ("conv1.weight", np.zeros((8, 3, 3, 3)), "is frozen in this plan"),
            ("head.weight", np.zeros((6, 4)), r"its shape is \[4, 6\], not \[6, 4\]"),
            ("head.weight", np.full((4, 6), np.nan), "NaN"),
            ("conv2.weight", np.zeros((6, 8, 1, 1)), "differ from the compiled ones"),
        ],
    )
    def test_what_cannot_be_set(self, trainer: Trainer, name: str, value: np.ndarray, words: str) -> None:
        before = trainer.state()
        with pytest.raises(ArtifactError, match=words):
            trainer.set_state({"head.bias": np.ones(4), name: value})
        assert same(trainer.state(), before)

    @pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
    def test_reset_starts_anew(self, compiled: Compile, optimizer: str) -> None:
        trainer = self.load(compiled(self.target, optimizer=optimizer).path)
        initial = trainer.state()
        first = [trainer.step(b).loss for b in batches(3)]
        trainer.reset()
        assert same(trainer.state(), initial)
        assert trainer.steps == 0
        assert [trainer.step(b).loss for b in batches(3)] == first

    def test_reset_may_set_a_new_head(self, trainer: Trainer) -> None:
        first = trainer.step(batches(1)[0]).loss
        head = {"head.weight": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}
        trainer.reset(head)
        assert np.array_equal(trainer.state()["head.weight"], head["head.weight"])
        losses = [trainer.step(b).loss for b in batches(2)]
        trainer.reset(head)
        assert [trainer.step(b).loss for b in batches(2)] == losses
        assert losses[0] != first

    # ------------------------------------------------------------ accumulation and averages

    def test_micro_steps_leave_all_but_the_sum_alone(self, compiled: Compile) -> None:
        """Bit for bit, on the device; every third step updates."""
        trainer = self.load(compiled(self.target, optimizer="accumulate").path)
        before = trainer._runner.read_state()
        for step, batch in enumerate(batches(6), start=1):
            trainer.step(batch)
            after = trainer._runner.read_state()
            moved = {n for n in after if not np.array_equal(after[n], before[n])}
            if step % 3:
                assert all(n.endswith((":accumulated", ":micro_step")) for n in moved)
                assert len(moved) == 1 + len(CHOICES["sparse"])
            else:
                assert {n for n in moved if n.startswith("trained:")} == {
                    f"trained:{fqn}" for fqn in CHOICES["sparse"]
                }
            before = after

    def test_evaluation_and_export_read_the_average(self, compiled: Compile, tmp_path: Path) -> None:
        artifact = compiled(self.target, optimizer="accumulate")
        trainer = self.load(artifact.path)
        initial = trainer.state()
        assert same(trainer.state(averaged=True), initial)
        for batch in batches(3):
            trainer.step(batch)
        live, average = trainer.state(), trainer.state(averaged=True)
        for name, tensor in average.items():
            np.testing.assert_allclose(tensor, (initial[name] + live[name]) / 2, rtol=1e-5, atol=1e-7)
        assert not same(live, average)
        net = Net()
        artifact.merge_into(net, trainer)
        assert same({n: net.get_parameter(n).detach().numpy() for n in average}, average)
        batch = batches(1)[0]
        with torch.no_grad():
            expected = metric(net, {k: torch.from_numpy(v) for k, v in batch.items()}).numpy()
        np.testing.assert_allclose(trainer.evaluate([batch]).values, expected, rtol=1e-5, atol=1e-6)
        assert same(load_file(trainer.export(tmp_path / "weights")), average)
        trainer.save(tmp_path / "checkpoint")
        fresh = Net()
        artifact.merge_into(fresh, tmp_path / "checkpoint")
        assert same({n: fresh.get_parameter(n).detach().numpy() for n in average}, average)
        trainer.reset({"head.bias": np.ones(4, np.float32)})
        assert np.array_equal(trainer.state(averaged=True)["head.bias"], np.ones(4, np.float32))

    def test_averages_that_are_not_kept_are_not_given(self, trainer: Trainer) -> None:
        with pytest.raises(ArtifactError, match=r"keeps no average.*ema_decay"):
            trainer.state(averaged=True)

    # ------------------------------------------------------------ divergence

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_divergence_stops_at_the_last_good_state(
        self, compiled: Compile, tmp_path: Path, optimizer: str
    ) -> None:
        trainer = self.load(compiled(self.target, optimizer=optimizer).path)
        batch = batches(1)[0]
        trainer.step(batch)
        before = trainer._runner.read_state()
        with pytest.raises(NonFiniteLoss, match=r"In step \d .*before: .*was undone") as e:  # noqa: PT012
            for _ in range(8):
                before = trainer._runner.read_state()
                trainer.step(batch, lr=3e38)
        assert "lower lr" in str(e.value)
        assert same(before, trainer._runner.read_state())
        steps = trainer.steps
        assert trainer.step(batch, lr=3e38, on_nonfinite="skip").skipped
        assert (trainer.steps, trainer.skipped) == (steps + 1, 1)
        assert same(before, trainer._runner.read_state())
        trainer.save(tmp_path / "good")
        trainer.export(tmp_path / "tensors")
        trainer.load_checkpoint(tmp_path / "good")
        assert same(before, trainer._runner.read_state())

    def test_after_an_undone_step_training_goes_on_as_without_it(self, trainer: Trainer) -> None:
        whole = [trainer.step(b).loss for b in batches(4)]
        end = trainer._runner.read_state()
        nan = {k: v.copy() for k, v in batches(1)[0].items()}
        nan["x"][0, 0, 0, 0] = np.nan
        for place in range(4):
            trainer.reset()
            losses = []
            for i, batch in enumerate(batches(4)):
                if i == place:
                    with pytest.raises(BatchError, match=r"'x' of task 'tiny' holds nan at \[0, 0, 0, 0\]"):
                        trainer.step(nan)
                    trainer._runner.step(nan, 0.1)  # without a look at the batch
                    trainer._runner.undo()
                    assert np.isfinite(trainer.evaluate([batch]).metric)
                losses.append(trainer.step(batch).loss)
            assert losses == whole
            assert same(end, trainer._runner.read_state())

    def test_each_state_slot_is_judged_by_a_telling_one(self, compiled: Compile) -> None:
        """Whichever slot a step leaves NaN in, it is noticed."""
        for optimizer in OPTIMIZERS:
            trainer = self.load(compiled(self.target, optimizer=optimizer).path)
            good = trainer._runner.read_state()
            for slot in trainer.manifest.changing_state:
                if good[slot.name].ndim == 0 or slot.key in ("accumulated", "ema"):  # emptied; follows
                    continue
                spoilt = np.full_like(good[slot.name], np.nan)
                trainer._runner.write_state({**good, slot.name: spoilt})
                results = [trainer.step(b, on_nonfinite="skip") for b in batches(3)]
                assert any(r.skipped for r in results), (optimizer, slot.name)

    def test_a_policy_must_be_known(self, trainer: Trainer) -> None:
        with pytest.raises(
            BatchError, match=r"on_nonfinite='skp' is none of 'error', 'skip'\. Did you mean 'skip'"
        ):
            trainer.step(batches(1)[0], on_nonfinite="skp")  # pyright: ignore

    def test_weights_that_are_not_finite_are_not_saved(self, trainer: Trainer, tmp_path: Path) -> None:
        while all(np.isfinite(t).all() for t in trainer.state().values()):
            trainer._runner.step(batches(1)[0], 1e38)  # without a look at the result
        with pytest.raises(NonFiniteLoss, match=r"trained:.* hold NaN"):
            trainer.save(tmp_path / "bad")
        assert not (tmp_path / "bad").exists()

    # ------------------------------------------------------------ checkpoints

    @pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
    def test_a_resumed_run_is_the_same_run(self, compiled: Compile, tmp_path: Path, optimizer: str) -> None:
        folder = compiled(self.target, optimizer=optimizer).path
        trainer = self.load(folder)
        whole = [trainer.step(b).loss for b in batches(4)]
        end = trainer.state()

        # Two of three micro-batches into an update, where gradients are accumulated.
        first = self.load(folder)
        losses = [first.step(b).loss for b in batches(2)]
        first.save(tmp_path / "checkpoint")
        second = self.load(folder)
        second.load_checkpoint(tmp_path / "checkpoint")
        assert second.steps == 2
        losses += [second.step(b).loss for b in batches(4)[2:]]
        assert losses == whole
        assert same(second.state(), end)

    def test_damaged_checkpoints_are_refused(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.step(batches(1)[0])
        path = trainer.save(tmp_path / "checkpoint")
        assert list(tmp_path.iterdir()) == [path]
        good = path.read_bytes()
        before = trainer.state()
        flipped = bytearray(good)
        flipped[-3] ^= 1
        damaged = {
            "cut in its values": good[:-5],
            "cut in its header": good[:40],
            "changed": bytes(flipped),
            "empty": b"",
            "something else": b"PK" + bytes(100),
        }
        for what, content in damaged.items():
            path.write_bytes(content)
            with pytest.raises(ArtifactError, match="checkpoint"):
                trainer.load_checkpoint(path)
            assert same(trainer.state(), before), what
        with pytest.raises(ArtifactError, match="There is no file"):
            trainer.load_checkpoint(tmp_path / "nothing")
        with pytest.raises(ArtifactError, match="is no checkpoint"):
            trainer.load_checkpoint(trainer.folder / "state.safetensors")

    @pytest.mark.parametrize("other", [("head", "sgd", 0), ("sparse", "adamw", 0), ("sparse", "sgd", 7)])
    def test_a_checkpoint_of_another_artefact_is_refused(
        self, trainer: Trainer, compiled: Compile, tmp_path: Path, other: tuple[str, str, int]
    ) -> None:
        self.load(compiled(self.target, *other).path).save(tmp_path / "other")
        with pytest.raises(ArtifactError, match="belongs to another artefact"):
            trainer.load_checkpoint(tmp_path / "other")

    def test_a_checkpoint_fits_the_other_targets(
        self, trainer: Trainer, compiled: Compile, tmp_path: Path
    ) -> None:
        trainer.step(batches(1)[0])
        trainer.save(tmp_path / "checkpoint")
        for target in ("torch", "openvino", "onnx"):
            other = Trainer.load(compiled(target).path, threads=1)
            other.load_checkpoint(tmp_path / "checkpoint")
            assert same(other.state(), trainer.state())

    def test_export_is_for_load_state_dict(self, trainer: Trainer, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        trainer.step(batches(1)[0])
        tensors = load_file(trainer.export(tmp_path / "tensors.safetensors"))
        net = Net()
        assert not net.load_state_dict(tensors, strict=False).unexpected_keys
        assert same({k: v.numpy() for k, v in tensors.items()}, trainer.state())

    def test_a_place_that_cannot_be_written(self, trainer: Trainer, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ArtifactError, match="Cannot write"):
            trainer.save(tmp_path / "file" / "checkpoint")
        with pytest.raises(ArtifactError, match="Cannot write"):
            trainer.save(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]

    # ------------------------------------------------------------ the folder

    def test_every_file_is_checked(self, folder: Path) -> None:
        names = read_manifest(folder).files
        assert {"plan.json", "state.safetensors"} < set(names)
        for name in names:
            path = folder / name
            good = path.read_bytes()
            changed = bytearray(good)
            changed[len(good) // 2] ^= 1
            path.write_bytes(bytes(changed))
            with pytest.raises(ArtifactError, match=f"{name} was changed"):
                self.load(folder)
            path.write_bytes(good[:-1])
            with pytest.raises(
                ArtifactError, match=f"{name} has {len(good) - 1} bytes instead of {len(good)}"
            ):
                self.load(folder)
            path.unlink()
            with pytest.raises(ArtifactError, match=f"{name} is missing"):
                self.load(folder)
            path.write_bytes(good)
        self.load(folder)

    def test_graph_and_manifest_must_agree(self, folder: Path) -> None:
        path = folder / "manifest.json"
        data = json.loads(path.read_text())
        data["train"]["inputs"] = [s for s in data["train"]["inputs"] if s["fqn"] != "head.bias"]
        path.write_text(json.dumps(data))
        with pytest.raises(ArtifactError):
            self.load(folder)

    def test_devices_and_threads_are_checked(self, compiled: Compile) -> None:
        folder = compiled(self.target).path
        with pytest.raises(ArtifactError, match="device 'TPU'"):
            Trainer.load(folder, device="TPU")
        with pytest.raises(ArtifactError, match="threads=0"):
            Trainer.load(folder, threads=0)
