"""One benchmark: artefacts are made, then all contenders and the ceilings take turns in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.files import ScratchFolder
from pockgraph.machine import available_memory_bytes, machine, usable_cores
from pockgraph.measure import MeasureError, StepFigures, batch_file, measure_interleaved

from ..info.format import size
from ..project import load_task
from ..versions import versions
from .ceilings import KERNELS, Ceilings, Cost, ceiling_command
from .contenders import OURS, Command, artifacts, commands
from .environments import ENVIRONMENTS
from .exchange import Exchange, write_exchange
from .own_times import prune_ms, query_ms
from .prepare import PLANS, Made, make
from .result import Bench, goals
from .scenarios import Scenario

OPTIMIZER = pg.SGD(lr=1e-2, momentum=0.9)
Progress = Callable[[str, int, int, str], None]
Results = dict[str, StepFigures | MeasureError]


def run(
    chosen: Scenario, peers: Sequence[str], *, quick: bool, threads: int | None, command: str,
    progress: Progress,
) -> Bench:  # fmt: skip
    """Benchmark a scenario.

    Args:
        peers: names of `contenders.PEERS`.
        progress: called with (stage, done, total, note).

    Raises:
        PockError: the preset's artefact cannot be made.
    """
    threads = threads or usable_cores()
    blocks, steps = (3, 3) if quick else (10, 5)
    with ScratchFolder("bench") as folder:
        made = _make(chosen, peers, folder, progress)
        progress("Building the graph here", 0, 1, "")
        task = load_task(chosen.reference, **chosen.options)
        graph = pg.build(task, OPTIMIZER)
        plans = {name: getattr(pg.Plan, name)(graph) for name in PLANS}
        plans["preset"].save(folder / "preset.json")
        first = made[f"{OURS} preset"]
        if isinstance(first, MeasureError):
            raise PockError(f"Compiling in a fresh process failed: {first}")
        own_ms = {
            "compiled_step": first.ready_ms, "prune": prune_ms(graph), "budget_query": query_ms(graph)
        }  # fmt: skip
        exchange = _exchange(chosen, task, peers, plans, folder)
        progress("Building the graph here", 1, 1, "")
        batch = task.example
        with batch_file(batch) as path:
            taking_part = commands(chosen, peers, folder, path, OPTIMIZER.to_dict(), threads, exchange)
            taking_part |= {k: m for k, m in made.items() if isinstance(m, MeasureError)}
            rows, ceilings = _measure(
                fitting(taking_part, chosen.process_bytes), threads, blocks, steps, progress
            )
        costs = _costs(graph, plans, rows)
    shapes = ", ".join(f"{k} {'×'.join(map(str, v.shape))}" for k, v in batch.items())
    host, known = machine(), versions()
    return Bench(
        title=f"One training step, {chosen.name}: {shapes}",
        context=f"{host['cpu']}, {threads} threads each, torch {known['torch']}, openvino "
        f"{known['openvino']}, onnxruntime {known['onnxruntime']}. Medians of {blocks * steps} steps in "
        f"{blocks} rounds. Command: {command}",
        command=command, quick=quick, machine=host, versions=known,
        settings={
            **chosen.options, "threads": threads, "blocks": blocks, "steps": steps, "peers": list(peers),
            "optimizer": OPTIMIZER.to_dict(), "full_peak_bytes": graph.peak_bytes,
            "preset_peak_bytes": graph.prune(plans["preset"]).peak_bytes,
        },
        rows=rows, own_ms=own_ms, goals=goals(chosen.name, rows, own_ms),
        made={k: m for k, m in made.items() if isinstance(m, Made)}, costs=costs, ceilings=ceilings,
        scenario=chosen.name,
    )  # fmt: skip


def _make(
    chosen: Scenario, peers: Sequence[str], folder: Path, progress: Progress
) -> dict[str, Made | MeasureError]:
    """Each artefact in a fresh process; keys are those of its row."""
    stage, wanted = "From the model to compiled steps, each in a fresh process", artifacts(peers)
    made: dict[str, Made | MeasureError] = {}
    for i, (target, plan) in enumerate(wanted):
        progress(stage, i, len(wanted), f"{target}, {plan}")
        out = folder / f"{target}-{plan}"
        made[f"{target} {plan}"] = make(
            chosen.reference, chosen.options, OPTIMIZER.to_dict(), plan, target, out
        )
    progress(stage, len(wanted), len(wanted), "")
    return made


def _exchange(
    chosen: Scenario, task: pg.Task, peers: Sequence[str], plans: Mapping[str, pg.Plan], folder: Path
) -> Exchange | MeasureError:
    if chosen.kind != "images":
        return MeasureError("not run: its program trains networks of images only")
    if ENVIRONMENTS.keys().isdisjoint(peers):
        return MeasureError("not run: no peer of another environment takes part")
    return write_exchange(task, plans, folder / "exchange")


def fitting(taking_part: Mapping[str, Command], each_bytes: int) -> dict[str, Command]:
    """The same rows, those that the machine has no memory for with that reason: this project's come first."""
    free_bytes = available_memory_bytes()
    room = len(taking_part) if free_bytes is None else free_bytes // each_bytes
    running = [k for k, c in taking_part.items() if not isinstance(c, MeasureError)]
    kept = set(sorted(running, key=lambda k: not k.startswith(OURS))[:room])
    why = MeasureError(
        f"not run: {len(running)} processes of about {size(each_bytes)} at once are more than the free "
        "memory holds. Name fewer peers"
    )
    return {k: why if k in running and k not in kept else c for k, c in taking_part.items()}


def _measure(
    taking_part: Mapping[str, Command], threads: int, blocks: int, steps: int, progress: Progress
) -> tuple[Results, Ceilings | None]:
    """Figures of each row in the order given, and the ceilings."""
    running = {k: c for k, c in taking_part.items() if not isinstance(c, MeasureError)}
    kernels = {f"ceiling {name}": ceiling_command(name, threads) for name in KERNELS}
    found = measure_interleaved(
        {**running, **kernels}, blocks=blocks, steps=steps,
        progress=lambda done, total, note: progress("Timing steps", done, total, note),
    )  # fmt: skip
    rows: Results = {k: c if isinstance(c, MeasureError) else found[k] for k, c in taking_part.items()}
    return rows, Ceilings.of(*(found[name] for name in kernels))


def _costs(graph: pg.TrainGraph, plans: Mapping[str, pg.Plan], rows: Mapping[str, Any]) -> dict[str, Cost]:
    """What the step of each row has to do. LoRA's is another graph and has none here."""
    costs = {name: Cost.of(graph.prune(plan)) for name, plan in plans.items()}
    costs["forward"] = Cost.of_forward(graph.prune(plans["head"]))
    kinds = {row: row.rpartition(" ")[2] for row in rows if not row.startswith(("lora", "peft"))}
    return {row: costs[kind] for row, kind in kinds.items() if kind in costs}
