"""Does an artefact train the same on ARM as on the machine that compiled it?

    python benchmarks/arm.py --out docs/results/arm.md            # or: make test-arm

Artefacts of every target that needs no torch take the same steps twice, by the same command line:
here, and under the aarch64 builds of the same libraries, emulated by qemu. Losses, weights, optimizer
state, running statistics and the metric are compared by the tolerances of `tests/oracle.py`. On Debian,
as root; an ARM root file system and the wheels are fetched once and kept in `build/arm`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F
from torch.nn.init import kaiming_normal_

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "backend"), str(ROOT / "tests")]

import models  # noqa: E402
import oracle  # noqa: E402
import policies  # noqa: E402
from emulated_arm import NEEDS, PROCESSOR, SUITE, ArmError, Machine, emulated  # noqa: E402
from zoo import convolutional  # noqa: E402

import pockgraph as pg  # noqa: E402
from pockgraph.errors import PockError  # noqa: E402
from pockgraph.targets import target_names  # noqa: E402
from pockui.demo import text, vision  # noqa: E402

DTYPES = {"f32": torch.float32, "f16": torch.float16}
STEPS = 3
VERDICTS = {True: "✓", False: "✗", None: "not judged"}
# A tensor that moved by less than this share of a typical one moved by rounding: its gradient is truly zero
# (an attention key's bias), and what another machine makes of it is held against a typical one.
FLOOR_RATIO = 1e-3


@dataclass(frozen=True)
class Model:
    """What is trained, on what data, and which of its tensors."""

    what: str
    task: Callable[[], pg.Task]
    plan: str  # of oracle.PLANS
    lr: float = 1e-2
    precisions: tuple[str, ...] = ("f32",)  # f16 is of the target openvino


def mobilenet_v2(px: int = 64, batches: int = 3) -> pg.Task:
    """MobileNetV2 1.0 with random weights, drawn so that PyTorch's own float32 gradients agree with float64
    to 2e-6. Norms with the statistics of random layers would make every rounding grow from layer to layer,
    and among the millions of activations of a large image some stand so close to a kink of ReLU6 that
    rounding decides whether a gradient passes.
    """
    generator = torch.Generator().manual_seed(0)
    net = convolutional.mobilenet_v2(convolutional.MOBILENET_V2, 32, 1280).eval()
    for module in net.modules():
        if isinstance(module, convolutional.ConvNorm):
            follows = "relu" if len(module) > 2 else "linear"
            kaiming_normal_(module[0].weight, nonlinearity=follows, generator=generator)
    data = [
        {
            "x": torch.randn(1, 3, px, px, generator=generator),
            "y": torch.randint(models.CLASSES, (1,), generator=generator),
        }
        for _ in range(batches)
    ]

    def losses(net: torch.nn.Module, batch: pg.Batch) -> torch.Tensor:
        return F.cross_entropy(net(batch["x"]), batch["y"], reduction="none")

    return pg.Task("mobilenet_v2", net, lambda n, b: losses(n, b).mean(), losses, data, data)


MODELS = {
    "mobilenet": Model("inverted residuals, 8 px, batch 4", models.mobilenet, "half", 0.1, ("f32", "f16")),
    "transformer": Model("2 encoder blocks, 6 tokens, batch 4", models.transformer, "full", 0.1),
    "dropping": Model("dropout, and batch norms in training mode; 8 px, batch 4", policies.both, "full", 0.1),
    "mobilenet_v2": Model(
        "MobileNetV2 1.0, 64 px, batch 1; random weights", mobilenet_v2, "preset", precisions=("f32", "f16")
    ),
    "efficientnet": Model(
        "EfficientNet-Lite0, 64 px, batch 1; pretrained",
        lambda: vision.task(batch_size=1, train_limit=20),
        "preset",
    ),
    "minilm": Model(
        "MiniLM (6 layers, hidden 384), 64 tokens, batch 1; pretrained",
        lambda: text.task(batch_size=1, train_limit=20),
        "preset",
    ),
}


# ---------------------------------------------------------------- running and comparing


@dataclass(frozen=True)
class MachineRun:
    """What a machine did: losses before each update, state by slot, metric; seconds of the whole process."""

    losses: list[float]
    state: dict[str, np.ndarray]
    metric: float
    peak_bytes: int
    total_s: float


def train(machine: Machine, artifact: Path, data: Path, steps: int) -> MachineRun:
    """Take steps by the runtime's own command line."""
    saved = data.with_name("checkpoint")
    saved.unlink(missing_ok=True)
    options = ("--steps", str(steps), "--every", "1", "--threads", "1", "--json")
    files = ("--data", str(data), "--eval", str(data), "--save", str(saved))
    output, total_s = machine.run("-m", "pockgraph.runtime", str(artifact), *files, *options)
    *reported, done = [json.loads(line) for line in output.splitlines()]
    losses = [e["loss"] for e in reported]
    return MachineRun(losses, load_file(saved), done["metric"], done["peak_rss_bytes"], total_s)


@dataclass(frozen=True)
class Row:
    """One comparison; ratios are the largest of all steps, or of all tensors of a kind."""

    model: str
    target: str
    precision: str
    loss_ratio: float
    metric_ratio: float
    weights: Deviation
    other_state: Deviation
    x86: MachineRun
    arm: MachineRun

    @property
    def right(self) -> bool | None:
        """Whether all agrees; None where no tolerance is stated: deep networks in less than float32."""
        if self.precision != "f32" and self.model not in models.ZOO:
            return None
        t = oracle.TOLERANCE[DTYPES[self.precision]]
        values = all(x <= t.loss_ratio for x in (self.loss_ratio, self.metric_ratio))
        return values and all(d.update_ratio <= t.update_ratio for d in (self.weights, self.other_state))


@dataclass(frozen=True)
class Deviation:
    """The largest difference of one element; that of a tensor as a share of what training changed in it."""

    element: float
    update_ratio: float
    worst: str = ""  # the slot of that tensor


def compare(name: str, target: str, precision: str, steps: int, arm: Machine, work: Path) -> Row:
    """Train on both machines; in a lower precision than float32, against float32 here."""
    model = MODELS[name]
    torch.manual_seed(0)
    task = model.task()
    graph = pg.build(task, pg.SGD(lr=model.lr, momentum=0.9))
    graph = graph.prune(oracle.PLANS[model.plan](graph))
    batches = list(islice(task.forever(seed=0), steps))
    data = work / "data.npz"
    with data.open("wb") as file:
        np.savez(file, **{k: np.concatenate([b[k].numpy() for b in batches]) for k in batches[0]})
    here = Machine((sys.executable,), str(ROOT / "backend"))
    exact = pg.compile(graph, target=target, out=work / "f32")
    tested = exact
    if precision != "f32":
        # Whether it agrees with PyTorch cannot be measured here: x86-64 does not compute in float16.
        lowered = {"precision": precision}
        tested = pg.compile(graph, target=target, out=work / precision, options=lowered, parity=False)
    a, b = train(here, exact.path, data, steps), train(arm, tested.path, data, steps)
    before = load_file(exact.path / "state.safetensors")
    weights = {slot for slot in a.state if slot.startswith("trained:")}
    rounding = steps * oracle.TOLERANCE[DTYPES[precision]].rounding_ratio
    return Row(
        name,
        target,
        precision,
        max(abs(x - y) / abs(x) for x, y in zip(a.losses, b.losses, strict=True)),
        abs(a.metric - b.metric) / max(abs(a.metric), 1e-2),
        deviation(before, a.state, b.state, weights, rounding),
        deviation(before, a.state, b.state, a.state.keys() - weights, rounding),
        a,
        b,
    )


def deviation(
    before: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    slots: Iterable[str],
    rounding: float,
) -> Deviation:
    """How far `got` is from `expected`; `rounding` of a tensor's norm is set aside."""
    exact = [s for s in slots if not np.issubdtype(before[s].dtype, np.floating)]
    for slot in exact:
        if (expected[slot] != got[slot]).any():
            return Deviation(math.inf, math.inf, slot)
    floats = sorted(set(slots) - set(exact))
    update = {s: norm(expected[s] - before[s]) for s in floats}
    elements = sum(before[s].size for s in floats)
    typical = math.sqrt(sum(u**2 for u in update.values()) / max(elements, 1))  # of one element
    ratios = {}
    for s in floats:
        usual = typical * math.sqrt(before[s].size)
        size = update[s] if update[s] > FLOOR_RATIO * usual else usual
        error = norm(got[s] - expected[s])
        if not math.isfinite(error) or not size:
            ratios[s] = math.inf if error else 0.0
        else:
            ratios[s] = max(0.0, error - rounding * norm(before[s])) / size
    worst = max(ratios, key=ratios.__getitem__)
    return Deviation(max(float(np.abs(got[s] - expected[s]).max()) for s in floats), ratios[worst], worst)


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def guard(arm: Machine, work: Path) -> str:
    """What a device says that would hold the weights in float16: an artefact without the marks.

    Raises:
        ArmError: it trained.
    """
    lowered, exact = work / "f16", work / "f32"
    manifest = json.loads((lowered / "manifest.json").read_text())
    unmarked = json.loads((exact / "manifest.json").read_text())["files"]
    for name in ("train.xml", "train.bin"):
        shutil.copy(exact / name, lowered)
        manifest["files"][name] = unmarked[name]
    (lowered / "manifest.json").write_text(json.dumps(manifest))
    try:
        train(arm, lowered, work / "data.npz", 1)
    except ArmError as e:
        if "in less than float32" in str(e):
            return str(e).removeprefix("error: ")
        raise
    raise ArmError("A device that holds state in float16 was not refused.")


# ---------------------------------------------------------------- the report


def report(rows: Sequence[Row], failures: Sequence[str], refusal: str, command: str, steps: int) -> str:
    """The result as Markdown."""
    packages = sorted({"numpy", "safetensors", *(NEEDS[r.target][0] for r in rows)})
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    qemu = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=True)
    f32, f16 = oracle.TOLERANCE[torch.float32], oracle.TOLERANCE[torch.float16]
    lines = [
        "# Training on ARM, compared with x86-64",
        "",
        f"`{command}`, {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        f"Each artefact was compiled once, and took {steps} steps twice, by "
        "`python -m pockgraph.runtime`: on the x86-64 machine that compiled it, and with the aarch64 builds "
        f"of the same libraries. ARM was emulated: {qemu.stdout.splitlines()[0]}, processor {PROCESSOR}. "
        "**Emulated times mean nothing**, so there are none here.",
        "",
        f"- both: {versions}; one thread; SGD with momentum; dropout from the same seed",
        f"- x86-64: Python {platform.python_version()}; compiled with torch {torch.__version__}",
        f"- aarch64: Python 3.11 of Debian {SUITE}; no torch",
        "",
        "| model | target | plan | precision on ARM | loss | metric | weights | one weight, absolute | "
        "other state | peak memory x86, MB | ARM, emulator included, MB | |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r.model} | {r.target} | {MODELS[r.model].plan} | {r.precision} | {r.loss_ratio:.1e} | "
            f"{r.metric_ratio:.1e} | {r.weights.update_ratio:.1e} | {r.weights.element:.1e} | "
            f"{r.other_state.update_ratio:.1e} | {r.x86.peak_bytes / 1e6:.0f} | "
            f"{r.arm.peak_bytes / 1e6:.0f} | {VERDICTS[r.right]} |"
        )
    named = list(dict.fromkeys(r.model for r in rows))
    lines += ["", *(f"- {name}: {MODELS[name].what}" for name in named)]
    lines += [f"- **Failed**: {failure}" for failure in failures]
    lines += [
        "",
        "- *loss*, *metric*: largest difference, as a share. Allowed: "
        f"{f32.loss_ratio:g} in f32, {f16.loss_ratio:g} in f16.",
        "- *weights*: largest difference of a trained tensor after the last step, as a share of what "
        "training changed in it, rounding of the sum to float32 set aside. Allowed: "
        f"{f32.update_ratio:g} in f32, {f16.update_ratio:g} in f16. *Other state*: the same of momentum and "
        "running statistics.",
        "- *f16*: activations and gradients in float16; trained weights, optimizer state, their update and "
        "the loss in float32. Compared with float32 on x86-64, so the figures are what float16 costs. The "
        "tolerances are those of small networks; in a deep one the cost is shown, not judged.",
    ]
    if refusal:
        lines += [
            "- OpenVINO's own choice on this ARM processor is float16, state included, while it calls the "
            "state float32. The runtime forces f32 unless told otherwise. An artefact that would be trained "
            f"with its weights in float16 is refused at load: “{refusal.partition(', ')[0]}, …”",
        ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and write the report; 1 if something differs or fails, 2 if ARM cannot be emulated."""
    p = argparse.ArgumentParser(description="Train artefacts on emulated ARM and compare with this machine.")
    p.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    p.add_argument("--steps", type=int, default=STEPS)
    p.add_argument("--cache", type=Path, default=ROOT / "build" / "arm")
    p.add_argument("--out", type=Path, help="write the report here as well")
    options = p.parse_args(argv)
    targets = [t for t in target_names() if t in NEEDS]
    cells = [
        (m, t, p)
        for m in options.models
        for t in targets
        for p in MODELS[m].precisions
        if p == "f32" or t == "openvino"
    ]
    cache = options.cache.resolve()
    try:
        arm = emulated(cache, targets)
    except PockError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    rows, failures, refusal = [], [], ""
    for cell in cells:
        what = ", ".join(cell)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            try:
                row = compare(*cell, options.steps, arm, Path(folder))
                if row.precision == "f16" and not refusal:
                    refusal = guard(arm, Path(folder))
            except PockError as e:
                failures.append(f"{what}: {e}")
                print(f"{what} FAILED: {e}", file=sys.stderr)
                continue
        off = f"furthest off {row.weights.worst}, {row.other_state.worst}"
        print(f"{what}: {row.arm.total_s:.0f} s, {VERDICTS[row.right]}; {off}", file=sys.stderr)
        rows.append(row)
    given = [] if options.models == list(MODELS) else ["--models", *options.models]
    given += [] if options.steps == STEPS else ["--steps", str(options.steps)]
    command = "make test-arm" + (f" ARGS='{' '.join(given)}'" if given else "")
    words = report(rows, failures, refusal, command, options.steps)
    print(words)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words, encoding="utf-8")
    return 1 if failures or any(r.right is False for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
