"""What frozen weights in int8 save: SmolLM2-135M's architecture with random weights, the paper's preset.

    python benchmarks/compressed_weights.py compile FOLDER    # gigabytes, minutes
    python benchmarks/compressed_weights.py table FOLDER      # a Markdown table
    python benchmarks/compressed_weights.py products FOLDER   # of products alone, a minute

Each training runs in a process of its own that never imports PyTorch; float32 and int8 take turns. `products`
are eight times `tanh(x Wᵀ) W` of a `W` [4096, 1024] and 128 rows, by OpenVINO alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT), str(ROOT / "benchmarks")]

KINDS = ("f32", "int8")
ROUNDS, WARM_UP, STEPS, THREADS = 3, 2, 8, 2


def compile_both(folder: Path, tokens: int, parity: bool) -> None:
    """Write `folder/f32` and `folder/int8`."""
    import memory_model  # pyright: ignore[reportMissingImports]
    import torch

    import pockgraph as pg

    torch.manual_seed(0)
    graph = pg.build(memory_model.smollm2(tokens), pg.SGD(lr=1e-3, momentum=0.9))
    for kind in KINDS:
        options = {} if kind == "f32" else {"frozen_weights": kind}
        artifact = pg.compile(graph, pg.Plan.preset(graph), out=folder / kind, options=options, parity=parity)
        print(artifact, artifact.manifest.parity_json, flush=True)


def run(folder: Path) -> dict[str, Any]:
    """Load and train in this process, and say what it took."""
    from pockgraph.runtime import Trainer
    from pockgraph.runtime.process_memory import peak_resident_bytes, resident_bytes

    imported, start = resident_bytes(), time.perf_counter()
    trainer = Trainer.load(folder, threads=THREADS)
    load_s = time.perf_counter() - start
    loaded = resident_bytes()
    spec = trainer.manifest.batch
    ids = np.random.default_rng(0).integers(0, 49152, spec["input_ids"].shape)
    batch = {name: ids if name != "attention_mask" else np.ones_like(ids) for name in spec}
    losses, times_ms = [], []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        losses.append(trainer.step(batch).loss)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return {
        "imported_bytes": imported, "load_s": load_s, "loaded_bytes": loaded,
        "trained_bytes": resident_bytes(), "peak_bytes": peak_resident_bytes(),
        "step_ms": float(np.median(times_ms[WARM_UP:])), "losses": losses,
    }  # fmt: skip


def table(folder: Path) -> str:
    """Of each kind the median of its rounds."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            command = [sys.executable, __file__, "run", str(folder / kind)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[kind].append(json.loads(said.splitlines()[-1]))
            print(kind, said, file=sys.stderr, flush=True)
    rows = ["| | " + " | ".join(KINDS) + " |", "|---|" + "--:|" * len(KINDS)]

    def row(what: str, values: list[str]) -> None:
        rows.append(f"| {what} | {' | '.join(values)} |")

    def medians(key: str, scale: float) -> list[float]:
        return [float(np.median([r[key] for r in found[kind]])) * scale for kind in KINDS]

    sizes = [sum(p.stat().st_size for p in (folder / kind).iterdir()) for kind in KINDS]
    constants = [(folder / kind / "train.bin").stat().st_size for kind in KINDS]
    row("artefact on disk, MB", [f"{s / 1e6:.0f}" for s in sizes])
    row("of it constants (`train.bin`), MB", [f"{s / 1e6:.0f}" for s in constants])
    row("load, s", [f"{v:.1f}" for v in medians("load_s", 1)])
    row("process with libraries only, MB", [f"{v:.0f}" for v in medians("imported_bytes", 1e-6)])
    row("process loaded, MB", [f"{v:.0f}" for v in medians("loaded_bytes", 1e-6)])
    row("process after steps, MB", [f"{v:.0f}" for v in medians("trained_bytes", 1e-6)])
    row("process peak, loading included, MB", [f"{v:.0f}" for v in medians("peak_bytes", 1e-6)])
    row("step, ms", [f"{v:.0f}" for v in medians("step_ms", 1)])
    return "\n".join(rows)


# ---------------------------------------------------------------- products alone

LAYERS, OUT, IN, ROWS = 8, 4096, 1024, 128
PRODUCTS = {"f32": "0", "int8": "0", "int8, activations too (OpenVINO's default)": None}


def products(folder: Path) -> str:
    """A Markdown table of the products."""
    import openvino as ov
    from openvino import opset15 as op

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    x = op.parameter([1, ROWS, IN], ov.Type.f32)
    ends = {kind: x.output(0) for kind in KINDS}
    for _ in range(LAYERS):
        value = draw.standard_normal((OUT, IN), dtype=np.float32) * 0.02
        scales = np.abs(value).max(1, keepdims=True) / 127
        numbers = np.round(value / scales).astype(np.int8)
        w = op.constant(numbers * scales)
        wide = op.tanh(op.matmul(ends["f32"], w, False, True))
        ends["f32"] = op.matmul(wide, w, False, False).output(0)
        stored = op.constant(numbers)
        w = op.multiply(op.convert(stored, "f32"), op.constant(scales))
        wide = op.multiply(op.tanh(op.matmul(ends["int8"], w, False, True)), op.constant(scales.T))
        w = op.multiply(op.convert(stored, "f32"), op.constant(np.ones((1, IN), np.float32)))
        ends["int8"] = op.matmul(wide, w, False, False).output(0)
    for kind, end in ends.items():
        model = ov.Model([op.result(end)], [x], kind)
        ov.serialize(model, str(folder / f"{kind}.xml"))
    rows = ["| | constants, MB | libraries only, MB | compiled, MB | after use, MB | ms | off by |",
            "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    exact = None
    for kind in PRODUCTS:
        command = [sys.executable, __file__, "product", str(folder), "--kind", kind]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        result = np.array(found["result"])
        exact = result if exact is None else exact
        off = np.abs(result - exact).max() / np.abs(exact).max()
        size = (folder / f"{kind.split(',')[0]}.bin").stat().st_size
        memory = " | ".join(f"{b / 1e6:.0f}" for b in found["bytes"])
        rows.append(f"| {kind} | {size / 1e6:.0f} | {memory} | {found['ms']:.0f} | {off:.1e} |")
    return "\n".join(rows)


def product(folder: Path, kind: str) -> dict[str, Any]:
    """One kind in this process."""
    from pockgraph.runtime.process_memory import resident_bytes
    from pockgraph.runtime.quiet_openvino import core

    process = core()
    config = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    if (group := PRODUCTS[kind]) is not None:
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group
    x = np.random.default_rng(1).standard_normal((1, ROWS, IN), dtype=np.float32)
    held = [resident_bytes()]
    compiled = process.compile_model(process.read_model(folder / f"{kind.split(',')[0]}.xml"), "CPU", config)
    request = compiled.create_infer_request()
    held.append(resident_bytes())
    times_ms = []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        result = request.infer([x])[0]
        times_ms.append((time.perf_counter() - start) * 1e3)
    held.append(resident_bytes())
    found = result[0, ::16, ::16].tolist()
    return {"bytes": held, "ms": float(np.median(times_ms[WARM_UP:])), "result": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("compile", "run", "table", "products", "product"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--no-parity", action="store_true")
    parser.add_argument("--kind", choices=tuple(PRODUCTS), default="int8")
    args = parser.parse_args()
    if args.what == "compile":
        compile_both(args.folder, args.tokens, not args.no_parity)
    elif args.what == "run":
        print(json.dumps(run(args.folder)))
    elif args.what == "products":
        print(products(args.folder))
    elif args.what == "product":
        print(json.dumps(product(args.folder, args.kind)))
    else:
        print(table(args.folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
