"""Ask a target which operators of a plan it lacks, as a process of its own: `python -m pockui.check_job`.

A `worker` that reads `{"reference", "plan", "target"}` and writes:

    {"kind": "stage", "text": …}       what is being done
    {"kind": "checked", "ok", "problems", "advice", "trainable", "other_targets"}
"""

from __future__ import annotations

import sys
from typing import Any

from .worker import Reporter, Stop, run


def check(spec: dict[str, Any], report: Reporter, _: Stop) -> None:
    """
    Raises:
        PockError: from any of the stages.
    """
    import pockgraph as pg
    from pockgraph.optimizer import optimizer_from_dict
    from pockgraph.train_graph.target_check import check as check_target

    from .project import load_task

    report("stage", text="Loading the task")
    task = load_task(spec["reference"])
    plan = pg.Plan.from_json(spec["plan"])
    report("stage", text="Deriving the training graph")
    graph = pg.build(task, optimizer_from_dict(plan.optimizer))
    report("stage", text=f"Asking {spec['target']}")
    report("checked", **check_target(graph.prune(plan), spec["target"]).to_dict())


if __name__ == "__main__":
    sys.exit(run(check, dict))
