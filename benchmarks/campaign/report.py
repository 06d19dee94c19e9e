"""The campaign's figures as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mutations import FAULTS, KINDS


def write(records: Mapping[str, Any]) -> tuple[str, int]:
    """Markdown of every part that was run, and the number of faults in it."""
    parts = {"kills": _kills, "mutations": _mutations, "endurance": _endurance,
             "determinism": _determinism, "disk": _disk, "server": _server}  # fmt: skip
    said, total = [], 0
    for name, record in records.items():
        lines, faults = parts[name](record["found"])
        total += len(faults)
        said += ["", *lines, ""]
        shown = [f"- {' '.join(f.split())[:300]}" for f in faults[:20]]
        said += [f"Faults: {len(faults)}", *shown] if faults else ["Faults: none."]
        said += [
            "",
            f"`{record['command']}`, commit {record['commit']}, {record['date']}, "
            f"{record['minutes']:.0f} minutes; {record['machine']}.",
        ]
    head = [
        "# Reliability", "",
        "`make campaign` runs all of this again; `--seed` draws other moments and changes. What is promised "
        "is in [reliability.md](../reliability.md).",
    ]  # fmt: skip
    return "\n".join([*head, *said, ""]), total


def _table(columns: list[str], rows: list[list[object]]) -> list[str]:
    rule = ["---", *["--:"] * (len(columns) - 1)]
    return ["| " + " | ".join(map(str, row)) + " |" for row in ([*columns], rule, *rows)]


def _kills(found: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    rows: list[list[object]] = [
        [o["operation"], o["kills"], len(o["faults"]), "yes" if o["resumed_equal"] else "**no**"]
        for o in found
    ]
    total = sum(o["kills"] for o in found)
    lines = [f"## kill -9 at {total} random moments", "",
             *_table(["operation", "kills", "faults", "ends as if never killed"], rows)]  # fmt: skip
    return lines, [f"{o['operation']}: {f}" for o in found for f in o["faults"]]


def _mutations(found: dict[str, Any]) -> tuple[list[str], list[str]]:
    counts = found["counts"]
    shown = [k for k in KINDS if k not in FAULTS or any(c.get(k) for c in counts.values())]
    rows: list[list[object]] = [
        [n, sum(c.values()), *[c.get(k, 0) for k in shown]] for n, c in sorted(counts.items())
    ]
    sums = [sum(c.get(k, 0) for c in counts.values()) for k in shown]
    rows.append(["**all**", sum(sums), *sums])
    lines = [
        f"## {sum(sums):,} mutated files", "",
        "*Re-hashed*: the manifest's digests were brought up to date, as whoever changes a file can do. "
        "*Another valid file* then is an artefact like any other; a study and a plan have no digest. "
        "Watched: files opened, processes, sockets, a folder that nothing may open, memory (1 GB of growth), "
        "time (60 s).",
        "", *_table(["file", "all", *shown], rows),
    ]  # fmt: skip
    return lines, [
        f"{f['file']} ({f['change']}, number {f['number']}): {f['kind']}: {f['said']}"
        for f in found["faults"]
    ]


def _endurance(found: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    rows: list[list[object]] = [
        [
            o["target"], f"{o['steps']:,}",
            f"{o['first_rss_bytes'] / 1e6:.1f}", f"{o['last_rss_bytes'] / 1e6:.1f}",
            o["loads"], " → ".join(f"{b / 1e6:.1f}" for b in o["load_rss_bytes"]),
            " → ".join(map(str, o["threads"])), " → ".join(map(str, o["descriptors"])),
        ]
        for o in found
    ]  # fmt: skip
    columns = ["target", "steps", "MB early", "MB late", "loads", "MB", "threads", "descriptors"]
    return (
        ["## Long runs", "", *_table(columns, rows)],
        [f"{o['target']}: {f}" for o in found for f in o["faults"]],
    )


def _determinism(found: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    rows: list[list[object]] = [
        [
            o["target"],
            "yes" if len(set(o["digests"])) == 1 else "**no**",
            o["journey"],
            f"{o['deviation_ratio']:.1e}",
        ]
        for o in found
    ]
    columns = ["target", "same bits twice", "a checkpoint's journey", "from an unmoved run"]
    lines = ["## Determinism", "", *_table(columns, rows), "",
             "Every move is in the middle of an accumulation cycle, with averages kept."]  # fmt: skip
    return lines, [f"{o['target']}: {f}" for o in found for f in o["faults"]]


def _disk(found: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    rows: list[list[object]] = [[o["operation"], o["tries"], o["refused"], len(o["faults"])] for o in found]
    if not found:
        return ["## Full disks", "", "Not run: no file system could be mounted."], []
    lines = ["## Full disks", "", *_table(["operation", "tries", "refused", "faults"], rows), "",
             "Refused: in one paragraph that says so, with every file as it was and none beside it. The rest "
             "had room enough, and what they wrote was read again."]  # fmt: skip
    return lines, [f"{o['operation']}: {f}" for o in found for f in o["faults"]]


def _server(found: dict[str, Any]) -> tuple[list[str], list[str]]:
    rows: list[list[object]] = [[k, v] for k, v in found["figures"].items()]
    return ["## The server", "", *_table(["what", "figure"], rows)], list(found["faults"])
