"""Small networks built as the large ones are that people fine-tune, and losses as they write them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]


def supervised(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def per_sample(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch["x"]).flatten(1).sum(1)


# ---------------------------------------------------------------- language


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.position = nn.Parameter(torch.randn(1, 6, 8) * 0.1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(
            self.body(self.embedding(x) * math.sqrt(8) + self.position, mask=mask, is_causal=True)
        )


def language_loss(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch["x"])[:, :-1]
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch["x"][:, 1:].reshape(-1), ignore_index=0
    )


class RotaryDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm1, self.norm2, self.norm = (nn.RMSNorm(8, eps=1e-6) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(8, n, bias=False) for n in (8, 4, 4, 8))
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        at = torch.arange(6)[:, None] * (100.0 ** -(torch.arange(0, 4, 2) / 4))
        self.register_buffer("cos", torch.cat([at, at], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([at, at], -1).sin(), persistent=False)

    def rotated(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, -1)
        return x * self.cos + torch.cat([-two, one], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        n, length, _ = h.shape
        y = self.norm1(h)
        q = self.rotated(self.q(y).view(n, length, 2, 4).transpose(1, 2))
        k = self.rotated(self.k(y).view(n, length, 1, 4).transpose(1, 2)).repeat_interleave(2, 1)
        v = self.v(y).view(n, length, 1, 4).transpose(1, 2).repeat_interleave(2, 1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.o(attended.transpose(1, 2).reshape(n, length, 8))
        y = self.norm2(h)
        h = h + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm(h))


class MaskedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        is_padding = torch.arange(x.shape[1]) >= lengths[:, None]
        h = self.embedding(x)
        h = self.norm(h + self.attention(h, h, h, key_padding_mask=is_padding, need_weights=False)[0])
        kept = (~is_padding).unsqueeze(-1).float()
        return self.head((h * kept).sum(1) / kept.sum(1).clamp(min=1))


class RelativeAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 5)
        self.bias = nn.Parameter(torch.randn(2, 9) * 0.2)
        at = torch.arange(5)
        self.register_buffer("index", at[:, None] - at[None, :] + 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / 2 + self.bias[:, self.index]
        mixed = torch.einsum("bhij,bhjd->bihd", scores.softmax(-1), v)
        return self.out(mixed.flatten(2)).mean(1)


# ---------------------------------------------------------------- sensors, sets, tables


class SensorGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.gru, self.head = nn.GRU(6, 5, batch_first=True, bidirectional=True), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.norm(self.conv(x))), 2)
        out, last = self.gru(x.transpose(1, 2))
        return self.head(torch.cat([last[0], last[1]], 1) + out.mean(1))


class Residual1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv1d(6, 6, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x)) * torch.sigmoid(block(x))
        return self.head(x.amax(-1))


def focal_loss(model: nn.Module, batch: Batch) -> Tensor:
    logp = F.log_softmax(model(batch["x"]), 1)
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])[batch["y"]]
    of_truth = logp.gather(1, batch["y"][:, None]).squeeze(1)
    return -(weight * (1 - of_truth.exp()) ** 2 * of_truth).mean()


def label_smoothing_with_mixup(model: nn.Module, batch: Batch) -> Tensor:
    mixed = 0.7 * batch["x"] + 0.3 * batch["x"].flip(0)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    logits = model(mixed)
    return 0.7 * loss(logits, batch["y"]) + 0.3 * loss(logits, batch["y"].flip(0))


class GraphNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.others, self.head = nn.Linear(4, 6), nn.Linear(4, 6, bias=False), nn.Linear(6, 5)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        messages = self.others(x)[source]
        summed = x.new_zeros(len(x), 6).index_add(0, target, messages)
        count = x.new_zeros(len(x)).scatter_add(0, target, x.new_ones(len(target))).clamp(min=1)
        return self.head(F.relu(self.own(x) + summed / count[:, None]))


class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(7, 4), nn.Embedding(9, 4)
        self.words = nn.EmbeddingBag(11, 4, mode="mean")
        self.bias = nn.Embedding(9, 1)

    def forward(self, batch: Batch) -> Tensor:
        item = self.item(batch["item"]) + self.words(batch["words"])
        return (self.user(batch["user"]) * item).sum(1) + self.bias(batch["item"]).squeeze(1)


class Perceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(3, 8) * 0.5)
        self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
        self.mix = nn.GRUCell(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.unsqueeze(0).repeat(len(x), 1, 1)
        for _ in range(2):
            found, _ = self.attention(latents, x, x)
            latents = self.mix(found.flatten(0, 1), latents.flatten(0, 1)).view_as(latents)
        return self.head(latents.mean(1))


class NeRF(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(3))
        self.first, self.second, self.out = nn.Linear(21, 8), nn.Linear(29, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        at = (x[..., None] * self.frequencies).flatten(-2)
        encoded = torch.cat([x, at.sin(), at.cos()], -1)
        h = F.softplus(self.first(encoded))
        return torch.sigmoid(self.out(F.relu(self.second(torch.cat([h, encoded], -1)))))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.up, self.down = (
            nn.Parameter(torch.randn(3, 6, 8) * 0.3),
            nn.Parameter(torch.randn(3, 8, 5) * 0.3),
        )

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x).softmax(-1)
        best = share.topk(2, -1)
        share = torch.zeros_like(share).scatter(
            -1, best.indices, best.values / best.values.sum(-1, keepdim=True)
        )
        h = torch.einsum("ni,eih->neh", x, self.up).relu()
        return torch.einsum("neh,eho,ne->no", h, self.down, share)


# ---------------------------------------------------------------- forms of Python


class WithKeywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(
        self, inputs: Tensor, *, attention_mask: Tensor | None = None, return_dict: bool = False
    ) -> Any:
        if attention_mask is not None:
            inputs = inputs.masked_fill(attention_mask == 0, 0.0)
        logits = self.head(torch.tanh(self.fc(inputs)))
        return {"logits": logits, "hidden": None} if return_dict else logits


class LoopOfModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.acts = nn.ModuleDict({"relu": nn.ReLU(), "gelu": nn.GELU("tanh"), "selu": nn.SELU()})
        self.heads = nn.ParameterDict(
            {"w": nn.Parameter(torch.randn(5, 6)), "b": nn.Parameter(torch.zeros(5))}
        )

    def forward(self, x: Tensor) -> Tensor:
        kept = x
        for i, (layer, act) in enumerate(zip(self.layers, self.acts.values())):
            x = act(layer(x)) + (kept if i else 0)
        return F.linear(x, self.heads["w"], self.heads["b"])


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h[:, :4] *= 2.0
        h[:, 4:].add_(self.b(x)[:, :4])
        h.view(-1, 2, 4)[:, 0].clamp_(-1, 1)
        h += 0.1
        out = torch.empty_like(h)
        out[:, ::2], out[:, 1::2] = h[:, :4].sigmoid(), h[:, 4:]
        return self.head(out)


# ---------------------------------------------------------------- losses of pairs and parts


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def siamese_loss(model: nn.Module, batch: Batch) -> Tensor:
    distance = F.pairwise_distance(model(batch["a"]), model(batch["b"]))
    same = batch["same"].float()
    return (same * distance**2 + (1 - same) * F.relu(1.5 - distance) ** 2).mean()


class Contrastive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(5.0)))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.encoder(x), dim=-1)


def info_nce(model: Any, batch: Batch) -> Tensor:
    logits = model.logit_scale.exp().clamp(max=100) * model(batch["a"]) @ model(batch["b"]).T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def contrastive_loss(model: nn.Module, batch: Batch) -> Tensor:
    z, y = model(batch["x"]), batch["y"]
    others = ~torch.eye(len(z), dtype=torch.bool)
    same = (y[:, None] == y[None, :]) & others
    logp = (z @ z.T / 0.5).masked_fill(~others, -1e4).log_softmax(1)
    return -((logp * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def triplet_loss(model: nn.Module, batch: Batch) -> Tensor:
    z, y = model(batch["x"]), batch["y"]
    apart = torch.cdist(z, z)
    same = y[:, None] == y[None, :]
    hardest = (apart * same).amax(1)
    nearest = apart.masked_fill(same, 1e4).amin(1)
    return F.relu(hardest - nearest + 0.3).mean()


class Multitask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.SiLU())
        self.classes, self.value = nn.Linear(8, 5), nn.Linear(8, 1)
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.classes(h), self.value(h)


def multitask_loss(model: Any, batch: Batch) -> Tensor:
    logits, value = model(batch["x"])
    losses = torch.stack([F.cross_entropy(logits, batch["y"]), F.huber_loss(value, batch["z"])])
    return (torch.exp(-model.log_variance) * losses + model.log_variance / 2).sum()


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.log_variance = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)
        self.decode = nn.Sequential(nn.Linear(2, 8), nn.ELU(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(self.encode(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.decode(mean), mean, log_variance

    def loss(self, x: Tensor) -> Tensor:
        found, mean, log_variance = self(x)
        divergence = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(1).mean()
        return F.mse_loss(found, x, reduction="sum") / len(x) + 0.1 * divergence
