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


def pooled_head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


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


# ---------------------------------------------------------------- vision


class SEBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head = pooled_head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.conv(x)))
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(x)


class ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        return self.head(x.mean([-2, -1]))


class MobileViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.local, self.project = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 6, 1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.attend = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = pooled_head(6)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.local(x))
        n, c, h, w = y.shape
        patches = y.reshape(n * c * h // 2, 2, w // 2, 2).transpose(1, 2).reshape(n, c, -1, 4)
        patches = self.attend(patches.transpose(1, 3).reshape(n * 4, -1, c))
        patches = patches.view(n, 4, -1, c).transpose(1, 3).reshape(n * c * h // 2, w // 2, 2, 2)
        back = patches.transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.project(torch.cat((y, back), dim=1)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(2, 6), nn.InstanceNorm2d(8, affine=True)
        self.middle = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(14, 6, 3, padding=1)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.leaky_relu(self.norm1(self.down1(x)), 0.1)
        b = F.leaky_relu(self.norm2(self.down2(F.max_pool2d(a, 2))), 0.1)
        c = F.relu(self.middle(F.avg_pool2d(b, 2)))
        d = self.up2(torch.cat([self.up1(c), b, F.adaptive_avg_pool2d(a, 4)], 1)[:, :14])
        e = F.interpolate(F.relu(d), scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(torch.cat([e, a], 1))


class SwinWindows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.merge, self.head = nn.Linear(32, 16, bias=False), nn.Linear(16, 5)

    def windows(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        return x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = self.windows(torch.roll(self.norm(x), (-1, -1), (1, 2)))
        y = self.attention(y, y, y, need_weights=False)[0]
        y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        parts = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        return self.head(self.merge(torch.cat(parts, -1)).mean((1, 2)))


class PatchTransformer(nn.Module):
    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8) * 0.02)
        self.qkv, self.out, self.norm1, self.norm2 = (
            nn.Linear(8, 24),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
            nn.LayerNorm(8),
        )
        self.head = nn.Linear(8, 5)
        if frozen:
            for parameter in (self.token, *self.patch.parameters(), self.norm1.weight, self.out.bias):
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.mT * 0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return self.head(self.norm2(x)[:, 0])


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(3))
        self.head = pooled_head(15)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer, norm in zip(self.layers, self.norms):
            features.append(layer(F.relu(norm(torch.cat(features, 1)), inplace=True)))
        return self.head(torch.cat(features, 1))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, (1, 3), padding=(0, 1))
        self.five = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU6(), nn.Conv2d(2, 4, 5, padding="same"))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 2, 1))
        self.head = pooled_head(11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.elu(torch.cat([b(x) for b in (self.one, self.three, self.five, self.pool)], 1)))


class PixelShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 12, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x), 2) + F.interpolate(x, scale_factor=2, mode="nearest")


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 6))
        self.register_buffer("identity", torch.tensor([[1.0, 0.0, 0.03], [0.0, 1.0, 0.01]]))
        self.conv, self.head = nn.Conv2d(1, 4, 3), pooled_head(4)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.identity + 0.1 * self.where(x).view(-1, 2, 3)
        return self.head(
            F.relu(
                self.conv(
                    F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)
                )
            )
        )


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        )
        self.classes, self.boxes = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.classes(h).flatten(2).mT, self.boxes(h).flatten(2).mT

    def loss(self, batch: Batch) -> Tensor:
        logits, found = self(batch["x"])
        truth = batch["boxes"].sigmoid()
        one, two = found.sigmoid(), truth
        top, bottom = torch.maximum(one[..., :2], two[..., :2]), torch.minimum(one[..., 2:], two[..., 2:])
        inner = (bottom - top).clamp(min=0).prod(-1)
        area = (one[..., 2:] - one[..., :2]).abs().prod(-1) + (two[..., 2:] - two[..., :2]).abs().prod(-1)
        overlap = inner / (area - inner + 1e-3)
        is_object = (batch["y"] > 0).to(one.dtype)
        each = F.smooth_l1_loss(one, two, reduction="none").sum(-1) + 1 - overlap
        boxes = (each * is_object).sum()
        return F.cross_entropy(logits.flatten(0, 1), batch["y"].flatten()) + boxes / is_object.sum().clamp(
            min=1
        )


class Film(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.condition, self.head = nn.Conv2d(3, 6, 3), nn.Linear(4, 12), pooled_head(6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.condition(c)[:, :, None, None].chunk(2, 1)
        return self.head(torch.addcmul(shift, self.conv(x), 1 + scale).relu_())


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
