"""The pairs of networks and images."""

from __future__ import annotations

import functools
import gzip
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pockgraph.task import Batches, Task
from pockgraph.task.batch import Batch
from pockui.demo import vision
from pockui.demo.data import Arrays, cached, stratified_split
from pockui.demo.efficientnet import efficientnet_lite0

from .fetch import asset
from .networks import MobileNetV2, SmallResNet, drawn, load, mobilenet_v2, pretrained

BATCH = 8
SIDE = 64  # pixels of an image that a network gets
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as MobileNetV2 was trained with
FASHION = "usr/share/datasets/fashion-mnist"
STAMPS = "usr/share/tuxpaint/stamps"
LEAST_STAMPS = 10  # of a class


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy, averaged over the batch: scalar."""
    return F.cross_entropy(model(batch["x"]), batch["y"])


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """Whether each sample is classified correctly: float32 `[N]`."""
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


@dataclass(frozen=True)
class Colours:
    """`{"pixels": uint8 [N, H, W, 3], "y"}` -> `{"x": float32 [N, 3, H, W], "y"}`, scaled as ImageNet's."""

    def __call__(self, batch: Batch) -> Batch:
        x = batch["pixels"].float().permute(0, 3, 1, 2) / 255
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        return {"x": ((x - mean) / deviation).contiguous(), "y": batch["y"]}


@dataclass(frozen=True)
class Grey:
    """`{"pixels": uint8 [N, 28, 28], "y"}` -> `{"x": float32 [N, 1, 28, 28], "y"}`, from -1 to 1."""

    def __call__(self, batch: Batch) -> Batch:
        return {"x": batch["pixels"].unsqueeze(1).float() / 127.5 - 1, "y": batch["y"]}


def lite0_digits() -> Task:
    """The demo's task."""
    return vision.task(BATCH, SIDE)


def lite0_fashion() -> Task:
    """EfficientNet-Lite0 on 3,000 of Fashion-MNIST's images; 1,000 choose, 2,000 of its test part judge."""
    pixels, y = _fashion("train")
    train, validation = ({"pixels": pixels[p], "y": y[p]} for p in stratified_split(y, (3000, 1000)))
    pixels, y = _fashion("t10k")
    (part,) = stratified_split(y, (2000,))
    net = efficientnet_lite0(10)
    parts = (train, validation, {"pixels": pixels[part], "y": y[part]})
    return _task("lite0-fashion", net, parts, vision.Enlarge(SIDE), ("_fc.weight", "_fc.bias"))


def mobilenet_stamps() -> Task:
    """MobileNetV2 on the stamps of Tux Paint: photographs and drawings, by the folder they are in."""
    stored = cached(f"evidence-stamps-{SIDE}-1", _stamps)
    y = stored["y"].astype(np.int64)
    test, validation = len(y) * 3 // 10, len(y) * 2 // 10
    parts = stratified_split(y, (len(y) - test - validation, validation, test))
    net = mobilenet_v2(int(y.max()) + 1)
    arrays = tuple({"pixels": stored["pixels"][p], "y": y[p]} for p in parts)
    return _task("mobilenet-stamps", net, arrays, Colours(), ("classifier.1.weight", "classifier.1.bias"))


def mobilenet_emoji() -> Task:
    """MobileNetV2 that knows Google's emoji by category, and adapts to Twitter's drawings of other symbols.

    The symbols are split first. Training before the device sees those of the training part as Google draws
    them, the device those of the same part as Twitter does; it is judged on symbols that neither showed.
    """
    stored = cached(f"evidence-emoji-{SIDE}-1", _emoji)
    y = stored["y"].astype(np.int64)
    parts = stratified_split(y, (1000, 300, len(y) - 1300))
    net = mobilenet_v2(int(y.max()) + 1)
    google = Batches({"pixels": stored["google"][parts[0]], "y": y[parts[0]]}, 16, transform=Colours())
    state = cached("evidence-mobilenet-google-1", lambda: pretrained(net, google, steps=600, lr=0.01))
    arrays = tuple({"pixels": stored["twitter"][p], "y": y[p]} for p in parts)
    return _task("mobilenet-emoji", load(MobileNetV2(int(y.max()) + 1), state), arrays, Colours(), ())


def resnet_digits() -> Task:
    """A small ResNet that knows Fashion-MNIST learns handwritten digits."""
    pixels, y = _fashion("train")
    fashion = Batches({"pixels": pixels, "y": y}, 64, transform=Grey())
    net = drawn(0, SmallResNet, 10)
    state = cached("evidence-resnet-fashion-1", lambda: pretrained(net, fashion, steps=1500, lr=0.05))
    fresh = ("fc.weight", "fc.bias")
    return _task("resnet-digits", load(net, state), tuple(vision.splits()), Grey(), fresh)


def _task(
    name: str, net: nn.Module, parts: tuple[Arrays, ...], transform: object, fresh: tuple[str, ...]
) -> Task:
    train, validation, test = parts
    how = {"batch_size": BATCH, "transform": transform}
    return Task(
        name=name, model=net, loss=loss, metric=accuracy, fresh=fresh,
        train=Batches(train, shuffle=True, **how), eval=Batches(test, **how),
        validation=Batches(validation, **how),
    )  # fmt: skip


@functools.cache
def _fashion(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `[N, 28, 28]` and labels int64 `[N]` of `train` or `t10k`."""
    folder = asset("fashion") / FASHION

    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(folder / f"{part}-{name}-ubyte.gz") as file:
            return np.frombuffer(file.read(), dtype=np.uint8, offset=header)

    labels = read("labels-idx1", 8)
    return read("images-idx3", 16).reshape(len(labels), vision.SIDE, vision.SIDE), labels.astype(np.int64)


def _stamps() -> Arrays:
    """Pixels uint8 `[N, SIDE, SIDE, 3]` on white and classes uint8 `[N]`, of folders with enough of them.

    `symbols` is left out: letters and coins are another matter.
    """
    root = asset("stamps") / STAMPS
    files = sorted(f for f in root.rglob("*.png") if "symbols" not in f.relative_to(root).parts)
    folders = {
        f: "/".join(f.relative_to(root).parts[:2]) for f in files if len(f.relative_to(root).parts) > 2
    }
    counts = Counter(folders.values())
    classes = sorted(name for name, count in counts.items() if count >= LEAST_STAMPS)
    kept = [f for f in folders if folders[f] in classes]
    y = np.array([classes.index(folders[f]) for f in kept], dtype=np.uint8)
    return {"pixels": np.stack([_picture(f) for f in kept]), "y": y}


def _emoji() -> Arrays:
    """Both drawings of each symbol, uint8 `[N, SIDE, SIDE, 3]` on white, and its category, uint8 `[N]`."""
    symbols = emoji_symbols()
    categories = sorted({s["category"] for s in symbols})
    found = {
        style: np.stack([_picture(asset(style) / f"package/img/{style}/64/{s['image']}") for s in symbols])
        for style in ("google", "twitter")
    }
    return {**found, "y": np.array([categories.index(s["category"]) for s in symbols], dtype=np.uint8)}


def emoji_symbols() -> list[dict[str, str]]:
    """The symbols that both drew, in the file's order; the five skin tones, a category to themselves, not."""
    text = (asset("google") / "package" / "emoji.json").read_text(encoding="utf-8")
    return [
        s
        for s in json.loads(text)
        if s["has_img_google"] and s["has_img_twitter"] and s["category"] != "Component"
    ]


def _picture(file: Path) -> np.ndarray:
    """uint8 `[SIDE, SIDE, 3]`: the whole picture, on white, its longer side as long as the square's."""
    from PIL import Image

    picture = Image.open(file).convert("RGBA")
    picture.thumbnail((SIDE, SIDE))
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    place = ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2)
    square.alpha_composite(picture, place)
    return np.asarray(square.convert("RGB"))
