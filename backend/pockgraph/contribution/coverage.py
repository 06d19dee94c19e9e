"""Coverage: what an analysis measured and what it did not, and why.

Pure values, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import listing
from .gains import HEAD, Measurement
from .scores import Scores

NAMED = 3  # tensors that a text names of each kind
SETTLED = "ended as more measurements would hardly change the plans for a quarter and half of the memory"


@dataclass(frozen=True)
class Coverage:
    """Which weights outside the head an analysis says something about.

    Attributes:
        measured: FQNs that were trained, with a gain at one ratio at least.
        probed: not measured, but with scores from gradients.
        skipped: FQN -> why it was not measured; also of those that were probed.
        biases: values of k that were measured.
        scores: whether the analysis has scores.
        ended: how its last call ended, a sentence's part; empty while one is under way, or was cut off.
    """

    measured: tuple[str, ...] = ()
    probed: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    biases: tuple[int, ...] = ()
    scores: bool = False
    ended: str = ""

    @property
    def text(self) -> str:
        """For people: a few short sentences."""
        total = len(self.measured) + len(self.skipped)
        if not total:
            return "The model has no weight outside the head."
        said = [f"Measured {len(self.measured)} of {total} weights outside the head"]
        if self.biases:
            said[0] += f" and the last k biases for {len(self.biases)} values of k"
        if self.probed:
            said.append(f"{len(self.probed)} more were probed only")
        reasons: dict[str, list[str]] = {}
        for fqn, why in self.skipped.items():
            reasons.setdefault(why, []).append(fqn)
        for why, names in reasons.items():
            said.append(f"{len(names)} not measured, {why}: {listing(names, NAMED)}")
        if self.ended:
            said.append(f"The last analysis {self.ended}")
        return ". ".join(said) + "."


def coverage_of(
    weights: Iterable[str],
    measurements: Sequence[Measurement],
    scores: Scores | None,
    ended: Mapping[str, Any],
) -> Coverage:
    """
    Args:
        weights: FQNs outside the head.
        measurements: of one analysis.
        scores: None: it was not probed.
        ended: what the analysis noted of its last call.
    """
    taken = [m for m in measurements if m.purpose == "contribution" and m.candidate != HEAD]
    by_weight: dict[str, set[str]] = {}
    for m in taken:
        if m.candidate.kind == "weight":
            by_weight.setdefault(m.candidate.fqn, set()).add(m.status)
    short = {m.candidate.fqn for m in measurements if m.purpose == "screening" and m.metric is not None}
    why, mode, limit = ended.get("why", ""), ended.get("mode", ""), ended.get("limit_s")
    probed = scores.weights if scores else {}
    measured, skipped = [], {}
    for fqn in weights:
        status = by_weight.get(fqn, set())
        if "done" in status:
            measured.append(fqn)
        elif "diverged" in status:
            skipped[fqn] = "because training it diverged"
        elif "failed" in status:
            skipped[fqn] = "because its measurement failed"
        elif fqn in short:
            skipped[fqn] = "as it gained less than others in a short training"
        elif why == "time" and (status or mode == "mixed"):
            skipped[fqn] = "because the time was used up"
        elif status:
            skipped[fqn] = "not yet"
        elif mode == "probe":
            skipped[fqn] = "as a probe trains nothing"
        elif mode == "mixed" and why == "finished":
            skipped[fqn] = "as by its score no plan would train it"
        elif mode == "mixed":
            skipped[fqn] = "not yet"
        else:
            skipped[fqn] = "not among those asked for"
    how = {
        "finished": "measured all that it was asked for",
        "time": f"used up its {limit:g} s" if limit else "used up its time",
    }
    how |= {"probe": {"finished": "only probed"}, "mixed": {"finished": SETTLED}}.get(mode, {})
    return Coverage(
        tuple(measured),
        tuple(fqn for fqn in skipped if fqn in probed),
        skipped,
        tuple(sorted({m.candidate.k for m in taken if m.candidate.kind == "bias_k" and m.status == "done"})),
        scores is not None,
        how.get(why, ""),
    )
