"""Recurrent classifiers: every kind of layer, one or both directions, one or two of them stacked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from models import CLASSES, TOKENS, VOCABULARY, sentences, task_of
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.task.batch import Batch
from zoo.convolutional import batches_of, logits

WIDTH = 5


class LastState(nn.Module):
    """Features over time in, the last hidden state of every direction to a class."""

    def __init__(
        self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False, **options: object
    ) -> None:
        super().__init__()
        self.recurrent = kind(WIDTH, 4, layers, bidirectional=both, batch_first=True, **options)  # pyright: ignore
        self.classifier = nn.Linear(8 if both else 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.recurrent(x)
        hidden = state[0] if isinstance(state, tuple) else state
        both = self.recurrent.bidirectional
        return self.classifier(torch.cat([hidden[-2], hidden[-1]], 1) if both else hidden[-1])


class Tagger(nn.Module):
    """Token ids to a class each: embedding, a bidirectional layer, batch norm over its outputs."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrent = kind(WIDTH, 3, bidirectional=True)
        self.norm = nn.LayerNorm(6)
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        out, _ = self.recurrent(self.embedding(ids.T))
        return self.classifier(self.norm(out)).permute(1, 2, 0)  # [N, classes, T]


class Projected(nn.Module):
    """An LSTM whose output is narrower than its memory (arXiv 1402.1128), from a learned start."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(WIDTH, 4, proj_size=3)
        self.start = nn.Parameter(torch.zeros(3))
        self.memory = nn.Parameter(torch.zeros(4))
        self.classifier = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        start = tuple(v.expand(1, len(x), -1) for v in (self.start, self.memory))
        out, _ = self.recurrent(x.transpose(0, 1), start)
        return self.classifier(out.mean(0))


# ---------------------------------------------------------------- tasks


def _of_features(name: str, net: Callable[[], nn.Module]) -> Callable[[], pg.Task]:
    return lambda: task_of(name, net(), batches_of((TOKENS, WIDTH)), logits)


def tagger() -> pg.Task:
    def tags(net: nn.Module, batch: Batch) -> Tensor:
        return net(batch["ids"])

    batches = [{"ids": b["ids"], "y": b["ids"] % CLASSES} for b in sentences()]
    return task_of("gru_tagger", Tagger(nn.GRU), batches, tags)


MODELS: dict[str, Callable[[], pg.Task]] = {
    "lstm": _of_features("lstm", lambda: LastState(nn.LSTM)),
    "lstm_both": _of_features("lstm_both", lambda: LastState(nn.LSTM, 2, both=True)),
    "gru": _of_features("gru", lambda: LastState(nn.GRU, 2)),
    "gru_tagger": tagger,
    "rnn_relu": _of_features("rnn_relu", lambda: LastState(nn.RNN, nonlinearity="relu", bias=False)),
    "rnn_tanh": _of_features("rnn_tanh", lambda: LastState(nn.RNN, both=True)),
    "lstm_projected": _of_features("lstm_projected", Projected),
}
