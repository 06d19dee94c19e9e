"""Ask a target which operators of a plan it lacks, as a process of its own: `python -m pockui.check_job`.

Reads one line of JSON, `{"reference", "plan", "target"}`, and writes events, one line of JSON each:

    {"kind": "stage", "text": …}       what is being done
    {"kind": "checked", "ok", "problems", "advice", "trainable", "other_targets"}
    {"kind": "error", "message": …}    and exit code 1

The end of its stdin ends it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from typing import Any

from pockgraph.errors import PockError

from .foreign_exceptions import explain
from .train_job import Reporter


def check(spec: dict[str, Any], report: Reporter) -> None:
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


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> int:
    report = Reporter()
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        check(spec, report)
    except PockError as e:
        report("error", message=str(e))
    except Exception as e:
        traceback.print_exc()
        report("error", message=explain(e)[0])
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
