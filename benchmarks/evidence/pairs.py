"""Which network learns what, and how thoroughly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pockgraph.task import Task

from . import images, sensors, smoke, texts

VISION_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
TEXT_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Pair:
    """A network and the data that it learns.

    Attributes:
        title: in words.
        make: the task.
        assets: what `fetch.py` must have fetched.
        steps, tuning_steps: of a final run, and of one that tries a rate.
        rates: the grid that every method starts from (`pockui.demo.tuning`), on the validation data.
        analysis: what `Study.analyze` is told.
        adapters: whether LoRA takes part, in queries and values.
    """

    title: str
    make: Callable[[], Task]
    assets: tuple[str, ...] = ()
    steps: int = 300
    tuning_steps: int = 150
    rates: tuple[float, ...] = VISION_RATES
    analysis: Mapping[str, Any] = field(
        default_factory=lambda: {"steps": 40, "seeds": (0,), "ratios": (1.0, 0.25), "batches": 50}
    )
    adapters: bool = False


def _text(title: str, make: Callable[[], Task], *assets: str) -> Pair:
    analysis = {"steps": 25, "seeds": (0,), "ratios": (1.0, 0.25), "batches": 32}
    return Pair(title, make, assets, 200, 100, TEXT_RATES, analysis, adapters=True)


# In the order of what they cost.
PAIRS: dict[str, Pair] = {
    "watch": Pair("Residual 1-D network, a watch from the left arm to the right", sensors.watch, ("watch",)),
    "resnet-digits": Pair("Small ResNet, from Fashion-MNIST to digits", images.resnet_digits, ("fashion",)),
    "mobilenet-stamps": Pair(
        "MobileNetV2, from ImageNet to stamps", images.mobilenet_stamps, ("mobilenet", "stamps")
    ),
    "mobilenet-emoji": Pair(
        "MobileNetV2, from Google's emoji to Twitter's",
        images.mobilenet_emoji,
        ("mobilenet", "google", "twitter"),
    ),
    "lite0-digits": Pair("EfficientNet-Lite0, from ImageNet to digits", images.lite0_digits),
    "lite0-fashion": Pair(
        "EfficientNet-Lite0, from ImageNet to Fashion-MNIST", images.lite0_fashion, ("fashion",)
    ),
    "minilm-emoji-names": _text("MiniLM, names of emoji by category", texts.emoji_names, "google", "twitter"),
    "minilm-tweets2": _text("MiniLM, tweets: negative or positive", texts.tweets2),
    "minilm-tweets3": _text("MiniLM, tweets: negative, neutral or positive", texts.tweets3),
}

# Small enough for a test: drawn networks and data that say nothing about any method.
_TINY = {"steps": 2, "seeds": (0,), "ratios": (1.0,), "lr": 0.01, "target": "torch", "batches": 2}
SMOKE: dict[str, Pair] = {
    "tiny-images": Pair("A tiny convolutional network", smoke.images, (), 3, 2, (0.003, 0.01), _TINY),
    "tiny-texts": Pair("A tiny transformer", smoke.texts, (), 3, 2, (0.003, 0.01), _TINY, adapters=True),
}
