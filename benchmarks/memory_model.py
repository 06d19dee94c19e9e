"""How well the process memory of a plan is predicted from twelve others that were measured.

    python benchmarks/memory_model.py measure rows.jsonl    # resumable; minutes a network and target
    python benchmarks/memory_model.py table rows.jsonl      # errors of held-out plans, a Markdown table
    python benchmarks/memory_model.py shared rows.jsonl     # for profile/common_bytes_per_unit.py

Networks are of common shapes, with random weights: what a step needs does not depend on their values. Each
is measured on twelve probes (`pockgraph.study.measured_plans.fitting_choices`) and on random plans, every
plan in a process of its own. The table fits models to the probes and predicts the random plans.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT)]

import pockgraph as pg  # noqa: E402
from pockgraph.profile import MeasuredPlan, Profile  # noqa: E402
from pockgraph.profile.model_fits import fit_memory, nonnegative_fit  # noqa: E402
from pockgraph.profile.profiler import profile_of  # noqa: E402
from pockgraph.study.measured_plans import FITTED_PLANS, fitting_choices, measure_plans, random_choices  # noqa: E402

PLANS_SEED = 1  # other plans than the probes'


# ---------------------------------------------------------------- networks


def _norm_after(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """ResNet's: two 3×3 convolutions, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _norm_after(inputs, outputs, 3, stride), _norm_after(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _norm_after(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def resnet18() -> pg.Task:
    widths = (64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [
        BasicBlock(before, after, 2 if after > before else 1) for before, after in zip((64, *widths), widths)
    ]
    model = nn.Sequential(
        _norm_after(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    ).eval()  # fmt: skip
    batch = {"x": torch.randn(8, 3, 128, 128), "y": torch.randint(0, 10, (8,))}
    return pg.Task(
        "resnet18", model, lambda m, b: F.cross_entropy(m(b["x"]), b["y"]),
        lambda m, b: (m(b["x"]).argmax(1) == b["y"]).float(), [batch], [batch],
    )  # fmt: skip


def efficientnet() -> pg.Task:
    from pockui.demo import vision

    return vision.task(8, 128)


def minilm() -> pg.Task:
    from pockui.demo import text

    return text.task(8, 64)


def smollm2(tokens: int = 32) -> pg.Task:
    """Of SmolLM2-135M's configuration, on one sequence."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    ids = torch.randint(0, 49152, (1, tokens))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    loss = lambda m, b: m(**b, use_cache=False).loss  # noqa: E731
    return pg.Task(
        "smollm2", LlamaForCausalLM(config).eval(), loss, lambda m, b: -loss(m, b)[None], [batch], [batch]
    )


NETWORKS: dict[str, tuple[Callable[[], pg.Task], Any]] = {
    "resnet18": (resnet18, pg.SGD(lr=1e-2, momentum=0.9)),
    "efficientnet-lite0": (efficientnet, pg.SGD(lr=1e-2, momentum=0.9)),
    "minilm": (minilm, pg.Adam(lr=1e-4)),
    "smollm2-135m": (smollm2, pg.SGD(lr=1e-2, momentum=0.9)),
}


# ---------------------------------------------------------------- measuring


def measure(file: Path, networks: list[str], targets: list[str], plans: int) -> None:
    """Add rows that the file lacks."""
    known = {(r["network"], r["target"], r["plan"]) for r in _rows(file)}
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    for name in networks:
        torch.manual_seed(0)
        make, optimizer = NETWORKS[name]
        graph = pg.build(make(), optimizer)
        profile = profile_of(graph)
        _profile_file(file, name).write_text(profile.to_json())
        probes, others = fitting_choices(profile), random_choices(profile, plans, PLANS_SEED)
        named = {f"probe {i}": c for i, c in enumerate(probes)} | {str(i): c for i, c in enumerate(others)}
        for target in targets:
            for plan, choice in named.items():
                if (name, target, plan) in known:
                    continue
                measured = measure_plans(
                    graph, profile, target=target, choices=[choice], rounds=1, steps=2, threads=2
                )
                row = {"network": name, "target": target, "plan": plan, "commit": commit,
                       "measured": measured[0].model_dump()}  # fmt: skip
                with file.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                print(name, target, plan, measured[0].step_ms, measured[0].memory, flush=True)


# ---------------------------------------------------------------- what the rows say


def table(file: Path) -> str:
    """Errors of models fitted to the probes, on the random plans: median, 9 of 10, and the worst."""
    lines = [
        "| network | target | held-out plans | peak, MB | median error | p90 | worst | p90 it says |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    groups = _groups(file)
    for (network, target), plans in groups.items():
        profile = _profile(file, network)
        probes = [plan for name, plan in plans.items() if name.startswith("probe")]
        others = [plan for name, plan in plans.items() if not name.startswith("probe")]
        if len(probes) < FITTED_PLANS or not others:
            continue
        # Shared coefficients of the other networks: those of the package know this one's plans.
        elsewhere = _shared({n: p for (n, t), p in groups.items() if t == target and n != network}, file)
        model = fit_memory(profile, probes, {target: elsewhere})
        if model is None:
            continue
        peaks = np.array([plan.memory.peak_bytes for plan in others if plan.memory])
        predicted = [model.predict(profile.memory_amounts(p.choice)).peak_bytes for p in others if p.memory]
        errors = np.abs(np.array(predicted) / peaks - 1)
        figures = (*np.quantile(errors, (0.5, 0.9, 1.0)), model.error_ratio)
        lines.append(
            f"| {network} | {target} | {len(peaks)} | {peaks.min() / 1e6:.0f}–{peaks.max() / 1e6:.0f} | "
            + " | ".join(f"{100 * e:.1f} %" for e in figures)
            + " |"
        )
    return "\n".join(lines)


def shared(file: Path) -> str:
    """Bytes per unit of each of the amounts, as all networks of a target have them in common."""
    groups = _groups(file)
    lines = []
    for target in sorted({target for _, target in groups}):
        found = _shared({n: plans for (n, t), plans in groups.items() if t == target}, file)
        lines.append(f'"{target}": ({", ".join(f"{c:.3g}" for c in found)}),')
    return "\n".join(lines)


def _shared(networks: dict[str, dict[str, MeasuredPlan]], file: Path) -> list[float]:
    """Bytes per unit that fit all these networks, each with fixed bytes of its own."""
    rows, over, whole = [], [], []
    for i, (network, plans) in enumerate(networks.items()):
        profile = _profile(file, network)
        for plan in plans.values():
            if plan.memory is not None:
                rows.append(
                    [*(float(i == k) for k in range(len(networks))), *profile.memory_amounts(plan.choice)]
                )
                over.append(plan.memory.peak_bytes - plan.memory.imported_bytes - profile.resident_bytes)
                whole.append(plan.memory.peak_bytes)
    found = nonnegative_fit(np.array(rows, float), np.array(over, float), np.array(whole, float))
    return found[len(networks) :].tolist()


def _groups(file: Path) -> dict[tuple[str, str], dict[str, MeasuredPlan]]:
    found: dict[tuple[str, str], dict[str, MeasuredPlan]] = {}
    for row in _rows(file):
        plans = found.setdefault((row["network"], row["target"]), {})
        plans[row["plan"]] = MeasuredPlan.model_validate(row["measured"])
    return found


def _profile(file: Path, network: str) -> Profile:
    return Profile.from_json(_profile_file(file, network).read_text())


def _profile_file(file: Path, network: str) -> Path:
    return file.with_name(f"{file.stem}.{network}.profile.json")


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    p.add_argument("what", choices=["measure", "table", "shared"])
    p.add_argument("file", type=Path)
    p.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS)[:3])
    p.add_argument("--targets", nargs="+", default=["openvino", "onnx"])
    p.add_argument("--plans", type=int, default=20, help="random ones, beside the probes")
    o = p.parse_args()
    if o.what == "measure":
        measure(o.file, o.networks, o.targets, o.plans)
    else:
        print(table(o.file) if o.what == "table" else shared(o.file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
