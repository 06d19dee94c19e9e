"""The PyTorch runner: results apart from inputs, memory, options."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runner_contract import RunnerContract
from tiny_task import Compile, batches, make_graph, make_plan
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from pockgraph.artifact.compiler import compile as compile_graph
from pockgraph.errors import ArtifactError, PockError
from pockgraph.ir.graph import Builder, Graph, Role, Slot, aten
from pockgraph.runtime import Trainer
from pockgraph.targets.torch.runner import _whole_float32, with_own_results


class TestTorch(RunnerContract):
    target = "torch"


def hand_made(
    body, state: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], kept: int = 1
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """A graph over state p, q, … and a batch; `body(builder, nodes)` returns the loss and the next state."""
    new = fx.Graph()
    nodes, slots = {}, []
    for name, value in (batch | state).items():
        nodes[name] = new.placeholder(name)
        nodes[name].meta["val"] = value.to("meta")
        trained = name in state
        slots.append(
            Slot(Role.PARAM if trained else Role.BATCH, name, tuple(value.shape), "float32", trained=trained)
        )
    loss, *following = body(Builder(new, "update"), nodes)
    new.output((loss, *following))
    outputs = [Slot(Role.LOSS, "", tuple(loss.meta["val"].shape), "float32")]
    outputs += [Slot(Role.NEW_PARAM, n, tuple(v.shape), "float32") for n, v in state.items()]
    values = {f"trained:{n}": v for n, v in state.items()}
    graph = Graph(new, tuple(slots), tuple(outputs), values)
    graph.validate()
    return graph, batch | state


def results_of(graph: Graph, inputs: dict[str, torch.Tensor]) -> None:
    """The results are the graph's, and changing the inputs afterwards does not change them."""
    args = [inputs[s.fqn].clone() for s in graph.inputs]
    expected = [t.clone() for t in fx.GraphModule(torch.nn.Module(), graph.fx)(*args)]
    code = with_own_results(graph)
    code.lint()
    results = fx.GraphModule(torch.nn.Module(), code)(*args)
    for arg in args:
        arg.fill_(-1.0)
    for got, wanted in zip(results, expected, strict=True):
        assert torch.equal(got, wanted)


P = {"p": torch.arange(6.0).reshape(2, 3), "q": torch.ones(2, 3) * 5}
X = {"x": torch.full((2, 3), 2.0)}


@pytest.mark.parametrize("view", ["itself", "t", "view", "_unsafe_view", "split", "reshape"])
def test_a_result_that_is_a_view_of_an_input_is_a_copy(view: str) -> None:
    def body(b, n):
        p = n["p"]
        old = {
            "itself": lambda: p,
            "t": lambda: b.call(aten.t.default, b.call(aten.t.default, p)),
            "view": lambda: b.call(aten.view.default, b.call(aten.view.default, p, [6]), [2, 3]),
            "_unsafe_view": lambda: b.call(aten._unsafe_view.default, p, [2, 3]),
            "split": lambda: b.call(torch.ops.aten.select.int, b.call(aten.unsqueeze.default, p, 0), 0, 0),
            "reshape": lambda: b.call(aten.reshape.default, p, [2, 3]),
        }[view]()
        return b.call(aten.sum.default, old), b.call(aten.sub.Tensor, p, n["x"]), old

    results_of(*hand_made(body, P, X))


def test_states_may_be_exchanged_or_returned() -> None:
    results_of(*hand_made(lambda b, n: (b.call(aten.sum.default, n["x"]), n["q"], n["p"]), P, X))
    results_of(*hand_made(lambda b, n: (n["p"], b.call(aten.neg.default, n["p"]), n["q"]), P, X))
    results_of(*hand_made(lambda b, n: (b.call(aten.sum.default, n["x"]), n["x"], n["q"]), P, X))


class _Alive(TorchDispatchMode):
    """Counts the bytes of large tensors alive between operators."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.nbytes >= 4000 and "copy_" not in str(func):
            size = out.nbytes
            self.bytes += size
            self.peak = max(self.peak, self.bytes)

            def freed() -> None:
                self.bytes -= size

            weakref.finalize(out, freed)
        return out


def test_values_are_freed_after_their_last_use() -> None:
    def body(b, n):
        x = n["x"]
        for _ in range(20):
            x = b.call(aten.exp.default, b.call(aten.neg.default, x))
        return b.call(aten.sum.default, x), b.call(aten.sub.Tensor, n["p"], x), b.call(aten.neg.default, x)

    big = {k: torch.ones(1000) for k in "pq"}
    graph, inputs = hand_made(body, big, {"x": torch.ones(1000)})
    forward = fx.GraphModule(torch.nn.Module(), with_own_results(graph)).forward
    args = [inputs[s.fqn] for s in graph.inputs]
    with _Alive() as alive:
        forward(*args)
    assert alive.peak <= 4 * 4000  # two next states, and two values on the way


def test_constants_of_both_graphs_are_stored_once(compiled: Compile) -> None:
    from safetensors import safe_open

    folder = compiled("torch").path
    names = {}
    for stem in ("train", "eval", "state"):
        with safe_open(folder / f"{stem}.safetensors", framework="pt") as f:
            names[stem] = set(f.keys())
    assert not names["train"] & names["eval"]
    assert not names["state"] & (names["train"] | names["eval"])
    assert names["train"]


def test_compile_mode_takes_the_same_steps(compiled: Compile, tmp_path: Path) -> None:
    artifact = compile_graph(
        make_graph(), make_plan(), target="torch", out=tmp_path / "out", options={"mode": "compile"}
    )
    trainer, plain = (Trainer.load(p, threads=1) for p in (artifact.path, compiled("torch").path))
    for batch in batches(3):
        assert trainer.step(batch).loss == pytest.approx(plain.step(batch).loss, rel=1e-5)
    for name, tensor in plain.state().items():
        np.testing.assert_allclose(trainer.state()[name], tensor, rtol=1e-4, atol=1e-6)
    assert trainer.evaluate(batches(1)).metric == pytest.approx(plain.evaluate(batches(1)).metric, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"mode": "fast"}, "no mode 'fast'"), ({"mod": "eager"}, "no option 'mod'. Did you mean 'mode'")],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(PockError, match=words):
        compile_graph(make_graph(), make_plan(), target="torch", out=tmp_path / "out", options=options)
    assert list(tmp_path.iterdir()) == []


def rewritten(folder: Path, name: str, old: str, new: str) -> None:
    """Change a text of an artefact, and its digest with it."""
    path, manifest = folder / name, folder / "manifest.json"
    text = path.read_text()
    assert old in text
    text = text.replace(old, new)
    path.write_text(text)
    data = json.loads(manifest.read_text())
    data["files"][name] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
    manifest.write_text(json.dumps(data))


def test_a_graph_file_with_foreign_operators_is_refused(copied) -> None:
    folder = copied("torch")
    rewritten(folder, "train.graph.json", "aten.relu.default", "aten.from_file.default")
    with pytest.raises(ArtifactError, match="from_file"):
        Trainer.load(folder)


def test_what_an_operator_refuses_only_when_it_runs_is_told(copied) -> None:
    """The shapes fit, so that it loads; the kernel does not take the arguments."""
    folder = copied("torch")
    arguments = "[1, 1], [1, 1], %s, false, [0, 0], 1"
    rewritten(folder, "eval.graph.json", arguments % "[1, 1]", arguments % "[1, 1, 1]")
    trainer = Trainer.load(folder)
    trainer.step(batches(1)[0])
    with pytest.raises(ArtifactError, match=r"dilation.*compile it again"):
        trainer.evaluate(batches(1))


def test_cuda_is_told_not_to_round_and_what_was_set_comes_back() -> None:
    places = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    before = [p.fp32_precision for p in places]
    with _whole_float32():
        assert [p.fp32_precision for p in places] == ["ieee"] * 3
    assert [p.fp32_precision for p in places] == before
