"""One small network under each loss that people train with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from models import BATCH_SIZE, BATCHES, CLASSES, MLP, TOKENS, VOCABULARY, randomised, sentences
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.task.batch import Batch

Loss = Callable[[Tensor, Tensor], Tensor]
IGNORED = 1


class Students(nn.Module):
    """A network and the frozen teacher whose answers it learns (arXiv 1503.02531)."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = MLP(hidden=6), MLP(hidden=10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            taught = self.teacher(x)
        return self.student(x), taught


class LanguageModel(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(VOCABULARY, width), nn.Linear(width, width)
        self.decoder = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        past = self.embedding(ids).cumsum(1)
        return self.decoder(torch.tanh(self.hidden(past)))


class TwoTowers(nn.Module):
    """Two encoders into one space, and how sharply their products are compared (arXiv 2103.00020)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(7, 5), nn.Linear(4, 5, bias=False)
        self.temperature = nn.Parameter(torch.zeros(()))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = F.normalize(self.left(left), dim=-1), F.normalize(self.right(right), dim=-1)
        return self.temperature.exp() * a @ b.T


# ---------------------------------------------------------------- targets


def _each(target: Callable[[torch.Generator], Tensor]) -> list[Batch]:
    g = torch.Generator().manual_seed(5)
    return [{"x": torch.randn(BATCH_SIZE, 12, generator=g), "y": target(g)} for _ in range(BATCHES)]


def classes(g: torch.Generator) -> Tensor:
    """One of them is the ignored class, and not all are."""
    y = torch.randint(0, CLASSES, (BATCH_SIZE,), generator=g)
    return torch.cat([y[:-2], torch.tensor([IGNORED, CLASSES - 1])])


def shares(g: torch.Generator) -> Tensor:
    return torch.rand(BATCH_SIZE, CLASSES, generator=g).softmax(1)


def labels(g: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (BATCH_SIZE, CLASSES), generator=g).float()


def values(g: torch.Generator) -> Tensor:
    return torch.randn(BATCH_SIZE, CLASSES, generator=g)


def class_weights(x: Tensor) -> Tensor:
    return torch.tensor([0.5, 2.0, 1.5, 0.7], dtype=x.dtype)


# ---------------------------------------------------------------- tasks


def _task(loss: Loss, target: Callable[[torch.Generator], Tensor]) -> Callable[[], pg.Task]:
    """An MLP under `loss(output, target)`; the metric is the size of its output."""

    def make() -> pg.Task:
        batches = _each(target)
        return pg.Task(
            "mlp", randomised(MLP()), lambda net, b: loss(net(b["x"]), b["y"]),
            lambda net, b: net(b["x"]).square().mean(1), batches, batches,
        )  # fmt: skip

    return make


def distillation() -> pg.Task:
    def loss(net: nn.Module, batch: Batch, degrees: float = 2.0) -> Tensor:
        student, teacher = net(batch["x"])
        taught = F.kl_div(
            F.log_softmax(student / degrees, 1), F.softmax(teacher / degrees, 1), reduction="batchmean"
        )
        logs = F.kl_div(
            F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="sum", log_target=True
        )
        return degrees**2 * taught + 0.1 * logs + F.cross_entropy(student, batch["y"])

    batches = _each(classes)
    metric = lambda net, b: net(b["x"])[0].square().mean(1)  # noqa: E731
    return pg.Task("distillation", randomised(Students()), loss, metric, batches, batches)


def causal() -> pg.Task:
    """Each token predicts the next; padding is not asked for."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        logits = net(batch["ids"])[:, :-1]
        following = batch["ids"].masked_fill(batch["mask"] == 0, -100)[:, 1:]
        return F.cross_entropy(logits.reshape(-1, VOCABULARY), following.reshape(-1))

    batches = [{"ids": b["ids"], "mask": b["mask"]} for b in sentences()]
    metric = lambda net, b: net(b["ids"]).square().mean((1, 2))  # noqa: E731
    assert all(b["ids"].shape[1] == TOKENS for b in batches)
    return pg.Task("causal", randomised(LanguageModel()), loss, metric, batches, batches)


def contrastive() -> pg.Task:
    """InfoNCE both ways (arXiv 1807.03748): a pair's own partner is the right answer."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        scores = net(batch["left"], batch["right"])
        own = torch.arange(len(scores))
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    g = torch.Generator().manual_seed(6)
    batches = [
        {"left": torch.randn(BATCH_SIZE, 7, generator=g), "right": torch.randn(BATCH_SIZE, 4, generator=g)}
        for _ in range(BATCHES)
    ]
    metric = lambda net, b: net(b["left"], b["right"]).square().mean(1)  # noqa: E731
    return pg.Task("contrastive", randomised(TwoTowers()), loss, metric, batches, batches)


MODELS: dict[str, Callable[[], pg.Task]] = {
    "smoothed": _task(lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), classes),
    "ignoring": _task(lambda x, y: F.cross_entropy(x, y, ignore_index=IGNORED), classes),
    "class_weighted": _task(lambda x, y: F.cross_entropy(x, y, class_weights(x)), classes),
    "summed": _task(lambda x, y: F.cross_entropy(x, y, class_weights(x), reduction="sum"), classes),
    "smoothed_weighted_ignoring": _task(
        lambda x, y: F.cross_entropy(x, y, class_weights(x), ignore_index=IGNORED, label_smoothing=0.2),
        classes,
    ),
    "soft_targets": _task(lambda x, y: F.cross_entropy(x, y, class_weights(x), label_smoothing=0.1), shares),
    "bce": _task(F.binary_cross_entropy_with_logits, labels),
    "bce_pos_weight": _task(
        lambda x, y: F.binary_cross_entropy_with_logits(
            x, y, weight=class_weights(x).flip(0), pos_weight=class_weights(x)
        ),
        labels,
    ),
    "bce_probabilities": _task(lambda x, y: F.binary_cross_entropy(x.sigmoid(), y), labels),
    "mse": _task(F.mse_loss, values),
    "l1": _task(F.l1_loss, values),
    "huber": _task(lambda x, y: F.huber_loss(x, y, delta=0.6), values),
    "smooth_l1": _task(lambda x, y: F.smooth_l1_loss(x, y, beta=0.4), values),
    "distillation": distillation,
    "causal": causal,
    "contrastive": contrastive,
}
