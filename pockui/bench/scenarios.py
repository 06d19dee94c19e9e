"""What is benchmarked: a network, a batch, and the ratios that this project wants to reach on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pockgraph.errors import PockError, suggest

Kind = Literal["images", "text", "language model"]
SpeedGoal = tuple[tuple[str, str], float]  # (slower row, faster row), how many times as fast
NETWORKS = "pockui.bench.networks"


@dataclass(frozen=True)
class Scenario:
    """A training step to be measured.

    Attributes:
        reference, options: `module:function` of the task, and the sizes of its batch.
        kind: which peers can train it.
        process_bytes: about what the largest contender holds; all of them are alive at once.
        compile_goal_ms: from the model in memory to a step that is ready to run.
    """

    name: str
    kind: Kind
    reference: str
    options: Mapping[str, int]
    speed_goals: tuple[SpeedGoal, ...] = ()
    compile_goal_ms: float | None = None
    process_bytes: int = 1_200_000_000

    def sized(self, **sizes: int | None) -> Scenario:
        """With other sizes of the batch; None leaves one as it is.

        Raises:
            PockError: it has no such size.
        """
        given = {k: v for k, v in sizes.items() if v is not None}
        for name in given:
            if name not in self.options:
                raise PockError(
                    f"A batch of {self.name} has no {name}: its sizes are {' and '.join(self.options)}. "
                    "Leave it out, or choose another scenario."
                )
        return replace(self, options={**self.options, **given})


def _images(network: str, batch_size: int, px: int, goals: tuple[SpeedGoal, ...] = ()) -> Scenario:
    name = f"{network.removesuffix('_v2')}-{batch_size}x{px}"
    return Scenario(
        name, "images", f"{NETWORKS}:{network}", {"batch_size": batch_size, "px": px}, goals
    )  # fmt: skip


def _language(batch_size: int, length: int) -> Scenario:
    return Scenario(
        f"smollm-{batch_size}x{length}", "language model", f"{NETWORKS}:smollm",
        {"batch_size": batch_size, "length": length},
        ((("eager full", PRESET), 3.5), (("lora full", PRESET), 2.2)), process_bytes=2_100_000_000,
    )  # fmt: skip


PRESET = "openvino preset"
_MOBILENET_GOALS: tuple[SpeedGoal, ...] = (
    (("eager full", PRESET), 9.0),
    (("channels_last full", PRESET), 6.0),
    (("channels_last preset", PRESET), 3.0),
    (("tensorflow full", PRESET), 3.5),
    (("tensorflow preset", PRESET), 1.7),
    (("tensorflow full", "openvino full"), 1.0),
)
VISION = Scenario(
    "efficientnet-8x224", "images", "pockui.demo.vision:task", {"batch_size": 8, "px": 224},
    ((("eager full", PRESET), 5.0), (("eager preset", PRESET), 1.5)), 15_000.0,
)  # fmt: skip
TEXT = Scenario(
    "minilm-8x64", "text", "pockui.demo.text:task", {"batch_size": 8, "length": 64},
    ((("eager full", PRESET), 2.8),), 30_000.0,
)  # fmt: skip
_ALL = (
    _images("mobilenet_v2", 8, 224, _MOBILENET_GOALS),
    _images("mobilenet_v2", 8, 128),
    _images("mobilenet_v2", 1, 224),
    _images("resnet50", 4, 224, ((("eager full", PRESET), 4.5),)),
    VISION,
    TEXT,
    Scenario("minilm-8x128", "text", "pockui.demo.text:task", {"batch_size": 8, "length": 128}),
    _language(1, 128),
    _language(1, 256),
    _language(4, 128),
)
SCENARIOS = {s.name: s for s in _ALL}
ALIASES = {"vision": VISION, "text": TEXT}  # the demo's two
EVERY = "all"
QUICK = ("mobilenet-8x224", "minilm-8x64")  # what a quick run of all of them runs


def scenario(name: str) -> Scenario:
    """The scenario of a name.

    Raises:
        PockError: there is none (with suggestions).
    """
    known = {**SCENARIOS, **ALIASES}
    if name not in known:
        raise PockError(
            f"There is no scenario {name!r}.{suggest(name, known)} There are {', '.join(known)}, and "
            f"{EVERY} for one after the other."
        )
    return known[name]


def scenarios(name: str, quick: bool) -> list[Scenario]:
    """Those that a name stands for: one, or with `all` each of them; of a quick run, few.

    Raises:
        PockError: there is none of that name (with suggestions).
    """
    if name != EVERY:
        return [scenario(name)]
    return [SCENARIOS[n] for n in (QUICK if quick else SCENARIOS)]
