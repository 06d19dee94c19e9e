"""How long an artefact takes to answer, beside the plain network on the same runtime.

    python benchmarks/predict_latency.py rows.jsonl                  # appends a line for each measurement
    python benchmarks/predict_latency.py rows.jsonl --table          # docs/results/predict-latency.md
    python benchmarks/predict_latency.py rows.jsonl --networks text --threads 1 --rounds 40

The plain network is the task's `predict` with everything frozen, as OpenVINO converts it from PyTorch and as
`torch.onnx.export` writes it, with the settings that the artefact's runner has. One sample, batch 1. Rounds
take turns with the two, in turned order; a round is the median of `CALLS` calls of each. Their first answers
are compared. Processor time is that of the whole process, on all its threads.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT)]

import pockgraph as pg  # noqa: E402
from pockgraph.runtime import Predictor  # noqa: E402
from pockui.demo import text, vision  # noqa: E402

Batch = dict[str, np.ndarray]
Answer = Callable[[Batch], np.ndarray]
CALLS = 5
NETWORKS: dict[str, tuple[str, Callable[[], pg.Task]]] = {
    "vision": ("EfficientNet-Lite0, 1×3×224²", lambda: vision.task(1, 224)),
    "text": ("MiniLM, 1×64 tokens", lambda: text.task(1, 64)),
}
PLANS: dict[str, Callable[[Any], pg.Plan]] = {
    "head": pg.Plan.head, "preset": pg.Plan.preset, "everything": pg.Plan.full
}  # fmt: skip
WAYS = {
    f"{target}{said}": options
    for target in ("openvino", "onnx")
    for said, options in (("", {}), (", constant_weights", {"constant_weights": True}))
}


class Plain(torch.nn.Module):
    """What a task predicts, of tensors in the order of `names`."""

    def __init__(self, task: pg.Task, names: list[str]) -> None:
        super().__init__()
        self._task, self._names = task, names
        self.model = task.model

    def forward(self, *tensors: torch.Tensor) -> Any:
        assert self._task.predict is not None
        return self._task.predict(self.model, dict(zip(self._names, tensors)))


def plain_openvino(net: Plain, tensors: tuple[torch.Tensor, ...], names: list[str], threads: int) -> Answer:
    import openvino as ov

    shapes = [ov.PartialShape(list(t.shape)) for t in tensors]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        model = ov.convert_model(net, example_input=tensors, input=shapes)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
    }  # fmt: skip
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def answer(batch: Batch) -> np.ndarray:
        return request.infer([batch[n] for n in names], share_inputs=True)[0]

    return answer


def plain_onnx(net: Plain, tensors: tuple[torch.Tensor, ...], names: list[str], threads: int) -> Answer:
    import onnxruntime as ort

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, tensors, file, input_names=names, dynamo=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def answer(batch: Batch) -> np.ndarray:
        return np.asarray(session.run(None, {n: batch[n] for n in names})[0])

    return answer


def measure(network: str, threads: list[int], rounds: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measure each plan and runtime of a network."""
    task = NETWORKS[network][1]()
    graph = pg.build(task, pg.SGD(lr=1e-2, momentum=0.9))
    for plan, make in PLANS.items():
        with tempfile.TemporaryDirectory() as folder:
            for target in ("openvino", "onnx"):
                pg.compile(graph, make(graph), target=target, out=Path(folder) / target, parity=False)
            for way, options in WAYS.items():
                target = way.split(",")[0]
                for count in threads:
                    with Predictor.load(Path(folder) / target, threads=count, **options) as predictor:
                        figures = compared(predictor, task, target, count, rounds)
                    keep({"network": network, "plan": plan, "way": way, "threads": count} | figures)


def compared(predictor: Predictor, task: pg.Task, target: str, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each round, of both."""
    names = list(predictor.manifest.predict[0].batch)
    tensors = tuple(task.example[n] for n in names)
    batch = {n: t.numpy() for n, t in zip(names, tensors)}
    load = plain_openvino if target == "openvino" else plain_onnx
    plain = load(Plain(task, names).eval(), tensors, names, threads)
    answers: dict[str, Answer] = {"artefact": lambda b: np.asarray(predictor.predict(b)), "plain": plain}
    first = {name: answer(batch).copy() for name, answer in answers.items()}
    np.testing.assert_allclose(first["artefact"], first["plain"], atol=1e-4)
    found: dict[str, list[float]] = {f"{n}_{clock}_ms": [] for n in answers for clock in ("wall", "cpu")}
    for number in range(rounds + 2):
        for name in answers if number % 2 else reversed(answers):
            wall, cpu = _timed(answers[name], batch)
            if number >= 2:  # the first ones warm up
                found[f"{name}_wall_ms"].append(wall)
                found[f"{name}_cpu_ms"].append(cpu)
    return found


def _timed(answer: Answer, batch: Batch) -> tuple[float, float]:
    """The medians of some calls in milliseconds: on the wall's clock, and of the processor."""
    walls, cpus = [], []
    for _ in range(CALLS):
        wall, cpu = time.perf_counter(), time.process_time()
        answer(batch)
        walls.append((time.perf_counter() - wall) * 1e3)
        cpus.append((time.process_time() - cpu) * 1e3)
    return float(np.median(walls)), float(np.median(cpus))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: processor times, and ratios (of these, and on the wall's clock): medians and quartiles."""
    lines = [
        "| network | learns | runtime | threads | plain, ms | artefact, ms | ratio | wall's clock |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ratios = []
        for clock in ("cpu", "wall"):
            rounds = np.array(row[f"artefact_{clock}_ms"]) / np.array(row[f"plain_{clock}_ms"])
            low, middle, high = np.quantile(rounds, (0.25, 0.5, 0.75))
            ratios.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        times = [f"{np.median(row[f'{n}_cpu_ms']):.1f}" for n in ("plain", "artefact")]
        cells = [NETWORKS[row["network"]][0], row["plan"], row["way"], str(row["threads"]), *times, *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rows", type=Path, help="JSON lines: what was measured")
    p.add_argument("--table", action="store_true", help="print what is there, and measure nothing")
    p.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    p.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    p.add_argument("--rounds", type=int, default=40)
    options = p.parse_args()

    def keep(row: dict[str, Any]) -> None:
        with options.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)

    if not options.table:
        for network in options.networks:
            measure(network, options.threads, options.rounds, keep)
    print(table([json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]))


if __name__ == "__main__":
    main()
