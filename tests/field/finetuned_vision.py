"""Small networks for images, built as the large ones are that people fine-tune."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]


def pooled_head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


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
