"""Small networks whose weights, inputs or losses are not plain: computed, quantised, followed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

Batch = dict[str, Tensor]


class Computed(nn.Module):
    """A forward pass that is a function of the module, whose layers have the names given."""

    def __init__(self, run: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, nn.Buffer(part) if type(part) is Tensor else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


def layers(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 8), *between, nn.Linear(8, 5))


# ---------------------------------------------------------------- weights that are computed


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).transpose(-1, -2)


def of_parametrized_layers() -> nn.Module:
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(12, 8), dim=1), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(),
        parametrizations.spectral_norm(nn.Linear(8, 5)),
    )  # fmt: skip
    parametrize.register_parametrization(net[2], "weight", Symmetric())
    return net.eval()


def of_older_hooks() -> nn.Module:
    """What `torch.nn.utils` did before there were parametrizations: hooks that assign the weight."""
    net = layers(nn.ReLU())
    torch.nn.utils.weight_norm(net[0])
    prune.l1_unstructured(net[2], "weight", 0.4)
    with torch.no_grad():  # the weights that hooks assign can then be copied
        net(torch.zeros(1, 12))
    return net


class LearntStep(torch.autograd.Function):
    """LSQ: weights are rounded to steps whose size is learnt."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(w, step)
        return (w / step).round().clamp(-8, 7) * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (w, step) = grads, ctx.saved_tensors
        at = w / step
        inside = (at >= -8) & (at <= 7)
        of_step = torch.where(inside, at.round() - at, at.clamp(-8, 7))
        return grad * inside, 0.1 * (grad * of_step).sum().view_as(step)


def learnt_step(m: Any, x: Tensor) -> Tensor:
    return m.head(F.relu(F.linear(x, LearntStep.apply(m.body.weight, m.step), m.body.bias)))  # pyright: ignore


def ternary(m: Any, x: Tensor) -> Tensor:
    """BitNet: weights of -1, 0 and 1, activations of 8 bits, gradients as if nothing were rounded."""
    w, x = m.body.weight, F.rms_norm(x, (12,))
    size, scale = w.abs().mean(), 127 / x.abs().amax(-1, keepdim=True)
    w = w + ((w / size).round().clamp(-1, 1) * size - w).detach()
    x = x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()
    return m.head(F.linear(x, w))


def hyper(m: Any, x: Tensor) -> Tensor:
    """Kernels that another layer makes of each image, as one convolution in as many groups."""
    samples, channels, height, width = x.shape
    kernels = m.make(x.mean((2, 3))).view(samples * channels, 1, 3, 3)
    y = F.conv2d(x.reshape(1, -1, height, width), kernels, groups=samples * channels, padding=1)
    return m.head(y.view(samples, -1))


def splines(m: Any, x: Tensor) -> Tensor:
    """A Kolmogorov-Arnold layer: cubic splines of each feature by de Boor's recurrence."""
    x, grid = x.unsqueeze(-1), m.grid
    basis = ((x >= grid[:-1]) & (x < grid[1:])).to(x.dtype)
    for k in range(1, 4):
        up = (x - grid[: -k - 1]) / (grid[k:-1] - grid[: -k - 1]) * basis[..., :-1]
        basis = up + (grid[k + 1 :] - x) / (grid[k + 1 :] - grid[1:-k]) * basis[..., 1:]
    return F.linear(F.silu(x.squeeze(-1)), m.plain) + F.linear(basis.flatten(1), m.bent)


def fixed_point(m: Any, x: Tensor) -> Tensor:
    """A deep equilibrium: found without gradients, then one step with them."""
    with torch.no_grad():
        z = x.new_zeros(len(x), 8)
        for _ in range(6):
            z = torch.tanh(m.again(z) + m.enter(x))
    return m.head(torch.tanh(m.again(z) + m.enter(x)))


def routed(m: Any, x: Tensor) -> Tensor:
    """Switch: each token to its best expert, and the loss that keeps the load even."""
    share = m.router(x).softmax(-1)
    weight, best = share.topk(1, -1)
    out = sum(f(x) * ((best == i) * weight) for i, f in enumerate(m.experts))
    m.balance = (F.one_hot(best.squeeze(-1), 3).to(x.dtype).mean(0) * share.mean(0)).sum() * 3
    return m.head(x + out)


def attended_neighbours(m: Any, x: Tensor, edges: Tensor) -> Tensor:
    """Graph attention: a softmax over each node's edges, by scatter."""
    h, (source, target) = m.body(x).view(-1, 2, 3), edges
    score = F.leaky_relu((torch.cat([h[source], h[target]], -1) * m.ask).sum(-1), 0.2)
    top = x.new_full((len(x), 2), -torch.inf).scatter_reduce(0, target[:, None].expand(-1, 2), score, "amax")
    share = torch.exp(score - top[target])
    whole = x.new_zeros(len(x), 2).index_add(0, target, share)[target]
    return m.head(
        F.elu(torch.zeros_like(h).index_add(0, target, h[source] * (share / whole)[..., None]).flatten(1))
    )


# ---------------------------------------------------------------- losses


def codes_loss(m: Any, batch: Batch) -> Tensor:
    """VQ-VAE: the nearest code, straight through, with the losses that move codes and encoder."""
    z = m.encode(batch["x"])
    code = m.codes[torch.cdist(z, m.codes).argmin(1)]
    moved = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(code.detach(), z)
    return F.mse_loss(m.decode(z + (code - z).detach()), batch["x"]) + moved


def teacher_loss(m: Any, batch: Batch) -> Tensor:
    """BYOL: the student predicts what a frozen teacher says of another view."""
    said = F.normalize(m.predict(m.student(batch["x"])), dim=-1)
    with torch.no_grad():
        wanted = F.normalize(m.teacher(batch["z"]), dim=-1)
    return (2 - 2 * (said * wanted).sum(-1)).mean()


def queue_loss(m: Any, batch: Batch) -> Tensor:
    """MoCo: one positive key, and a queue of negatives that is a buffer."""
    q, k = F.normalize(m(batch["x"]), dim=1), F.normalize(m(batch["z"]), dim=1).detach()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ m.queue.clone().detach()], 1) / 0.1
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def margin_loss(m: Any, batch: Batch) -> Tensor:
    """ArcFace: an angular margin for the class that is right."""
    cosine = F.linear(F.normalize(m(batch["x"])), F.normalize(m.centres))
    sine = torch.sqrt((1 - cosine**2).clamp(1e-6, 1))
    moved = torch.where(cosine > -math.cos(0.5), cosine * math.cos(0.5) - sine * math.sin(0.5), cosine - 0.2)
    right = torch.zeros_like(cosine).scatter_(1, batch["y"].view(-1, 1), 1)
    return F.cross_entropy((right * moved + (1 - right) * cosine) * 16, batch["y"])


def likelihoods(net: nn.Module, words: Tensor) -> Tensor:
    return net(words)[:, :-1].log_softmax(-1).gather(2, words[:, 1:, None]).sum((1, 2))


def preference_loss(m: Any, batch: Batch) -> Tensor:
    """DPO: the policy against a reference, on pairs of answers."""
    with torch.no_grad():
        before = likelihoods(m.reference, batch["w"]) - likelihoods(m.reference, batch["l"])
    return -F.logsigmoid(
        0.1 * (likelihoods(m.policy, batch["w"]) - likelihoods(m.policy, batch["l"]) - before)
    ).mean()


def with_reference() -> nn.Module:
    policy = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9))
    return Computed(lambda m, x: m.policy(x), policy=policy, reference=copy.deepcopy(policy))


def transport_loss(m: Any, batch: Batch) -> Tensor:
    """Sinkhorn: optimal transport between two sets, five rounds in logarithms."""
    cost = torch.cdist(m(batch["x"]), m(batch["z"])) ** 2
    kernel, size = -cost / 0.5, math.log(len(cost))
    u, v = cost.new_zeros(len(cost)), cost.new_zeros(len(cost))
    for _ in range(5):
        u = -torch.logsumexp(kernel + v[None], 1) - size
        v = -torch.logsumexp(kernel + u[:, None], 0) - size
    return (torch.exp(u[:, None] + v[None] + kernel) * cost).sum()


def decorrelated_loss(m: Any, batch: Batch) -> Tensor:
    """Barlow twins beside VICReg's variance and covariance."""
    a, b = m(batch["x"]), m(batch["z"])
    alike = lambda z: (z - z.mean(0)) / (z.std(0) + 1e-4)  # noqa: E731
    both = alike(a).T @ alike(b) / len(a)
    spread = F.relu(1 - torch.sqrt(a.var(0) + 1e-4)).mean()
    covariance = torch.cov(a.T)
    apart = (covariance - torch.diag(covariance.diagonal())).square().sum()
    return (both.diagonal() - 1).square().sum() + 0.01 * both.square().sum() + spread + 0.1 * apart


def risk_loss(m: Any, batch: Batch) -> Tensor:
    """Cox: each event against all that lasted longer."""
    order = torch.argsort(batch["t"], descending=True)
    risk, happened = m(batch["x"])[order, 0], (batch["t"][order] > 0).to(batch["t"].dtype)
    return -((risk - torch.logcumsumexp(risk, 0)) * happened).sum() / happened.sum().clamp(min=1)


def denoising_loss(m: Any, batch: Batch) -> Tensor:
    """A step of diffusion: noise and times in the batch, weighted by the signal that is left."""
    left = m.left.gather(0, batch["t"]).view(-1, 1).to(batch["x"].dtype)
    noisy = left.sqrt() * batch["x"] + (1 - left).sqrt() * batch["noise"]
    weight = (left / (1 - left)).clamp(max=5)
    return (weight * F.mse_loss(m(noisy, batch["t"]), batch["noise"], reduction="none")).mean()


def denoised(m: Any, x: Tensor, t: Tensor) -> Tensor:
    at = t[:, None].to(x.dtype) * torch.exp(-math.log(100) * torch.arange(3) / 3).to(x.dtype)
    scale, shift = m.modulate(F.silu(torch.cat([at.sin(), at.cos()], -1))).chunk(2, -1)
    return m.leave(F.layer_norm(m.enter(x), (8,)) * (1 + scale) + shift)


def box_loss(m: Any, batch: Batch) -> Tensor:
    """Complete intersection over union, whose weight of the shape has no gradient."""
    found, wanted = m(batch["x"]), batch["boxes"]
    centre, size = found[:, :2].sigmoid(), found[:, 2:].exp().clamp(max=4)
    found = torch.cat([centre - size / 2, centre + size / 2], 1)
    area = lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])  # noqa: E731
    inner = (
        (torch.min(found[:, 2:], wanted[:, 2:]) - torch.max(found[:, :2], wanted[:, :2])).clamp(min=0).prod(1)
    )
    share = inner / (area(found) + area(wanted) - inner)
    shape = 4 / math.pi**2 * (torch.atan(size[:, 0] / size[:, 1]) - 0.3) ** 2
    with torch.no_grad():
        weight = shape / (shape - share + 1 + 1e-7)
    return (1 - share + weight * shape).mean()
