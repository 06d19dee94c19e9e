"""The table of `test_field_losses.py`: losses that users compute, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])

Loss = Callable[[nn.Module, Any], Tensor]

SAMPLES, FEATURES, CLASSES, STEPS = 4, 6, 5, 7


def network() -> nn.Module:
    """`[N, FEATURES]` or `[N, T, FEATURES]` to CLASSES scores each."""
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def data() -> list[dict[str, Tensor]]:
    """Features `x`, class labels `y`, several labels `many`, values `z`, a sign `side`, a sequence `seq`
    with label sequences `words`, as long as `length` and `spoken` say."""
    g = torch.Generator().manual_seed(0)

    def batch(i: int) -> dict[str, Tensor]:
        spoken = torch.randint(1, 4, (SAMPLES,), generator=g)
        return {
            "x": torch.randn(SAMPLES, FEATURES, generator=g),
            "other": torch.randn(SAMPLES, FEATURES, generator=g),
            "third": torch.randn(SAMPLES, FEATURES, generator=g),
            "y": torch.randint(0, CLASSES, (SAMPLES,), generator=g),
            "many": (torch.rand(SAMPLES, CLASSES, generator=g) > 0.5).float(),
            "listed": torch.tensor([[1, 3, -1, 0, 2], [0, -1, 2, 2, 2], [4, 2, 0, -1, -1], [3, 1, 2, 4, 0]]),
            "z": torch.randn(SAMPLES, CLASSES, generator=g),
            "counts": torch.randint(0, 6, (SAMPLES, CLASSES), generator=g).float(),
            "side": torch.randint(0, 2, (SAMPLES,), generator=g).float() * 2 - 1,
            "seq": torch.randn(SAMPLES, STEPS, FEATURES, generator=g),
            "words": torch.randint(1, CLASSES, (SAMPLES, 3), generator=g),
            "length": torch.tensor([STEPS, STEPS - 1, STEPS, STEPS - 2]),
            "spoken": spoken,
        }

    return [batch(i) for i in range(3)]


def of(loss: Callable[..., Tensor], *keys: str, **how: Any) -> Loss:
    """A loss of the network's scores and entries of the batch."""
    return lambda m, b: loss(m(b["x"]), *(b[k] for k in keys), **how)


def of_two(loss: Callable[..., Tensor], *keys: str, **how: Any) -> Loss:
    """A loss of two outputs of the network, as siamese networks have it."""
    return lambda m, b: loss(m(b["x"]), m(b["other"]), *(b[k] for k in keys), **how)


def of_three(loss: Callable[..., Tensor], **how: Any) -> Loss:
    return lambda m, b: loss(m(b["x"]), m(b["other"]), m(b["third"]), **how)


def ctc(spoken: str = "spoken", **how: Any) -> Loss:
    def loss(m: nn.Module, b: Any) -> Tensor:
        scores = m(b["seq"]).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, b["words"], b["length"], b[spoken], **how)

    return loss


def impossible(m: nn.Module, b: Any) -> Tensor:
    """Two frames cannot spell three words: an infinite loss, which zero_infinity leaves out."""
    scores = m(b["seq"]).log_softmax(-1).transpose(0, 1)
    short = torch.where(torch.arange(SAMPLES) == 1, 2, b["length"])
    whole = torch.full_like(b["spoken"], 3)
    return F.ctc_loss(scores, b["words"], short, whole, zero_infinity=True)


def variance(m: nn.Module, b: Any) -> Tensor:
    return F.gaussian_nll_loss(m(b["x"]), b["z"], F.softplus(m(b["other"])) + 0.1)


def focal(m: nn.Module, b: Any) -> Tensor:
    p = torch.sigmoid(m(b["x"]))
    hit = p * b["many"] + (1 - p) * (1 - b["many"])
    return (-((1 - hit) ** 2.0) * torch.log(hit)).mean()


def dice(m: nn.Module, b: Any) -> Tensor:
    p = torch.sigmoid(m(b["x"]))
    return 1 - (2 * (p * b["many"]).sum() + 1) / (p.sum() + b["many"].sum() + 1)


def contrastive(m: nn.Module, b: Any) -> Tensor:
    """InfoNCE: each sample against all others."""
    a, c = F.normalize(m(b["x"]), dim=1), F.normalize(m(b["other"]), dim=1)
    return F.cross_entropy(a @ c.T / 0.1, torch.arange(len(a)))


def dirichlet(m: nn.Module, b: Any) -> Tensor:
    """Evidential: the log-likelihood of a Dirichlet distribution."""
    alpha = F.softplus(m(b["x"])) + 1
    p = torch.softmax(b["z"], 1)
    norm = torch.lgamma(alpha).sum(1) - torch.lgamma(alpha.sum(1))
    return (norm - ((alpha - 1) * torch.log(p)).sum(1)).mean()


def masked(m: nn.Module, b: Any) -> Tensor:
    """A mean over those that count, without a boolean index."""
    kept = b["z"] > 0
    error = torch.where(kept, (m(b["x"]) - b["z"]) ** 2, 0.0)
    return error.sum() / kept.sum().clamp(min=1)


def batch_hard(m: nn.Module, b: Any) -> Tensor:
    """The hardest positive and negative of each sample in the batch; its distance to itself is zero."""
    e = m(b["x"])
    distance = torch.cdist(e, e)
    same = b["y"][:, None] == b["y"][None]
    positive = distance.masked_fill(~same, 0.0).amax(1)
    negative = distance.masked_fill(same, 1e4).amin(1)
    return F.relu(positive - negative.clamp_max(10.0) + 0.3).mean()


def batch_hard_normalised(m: nn.Module, b: Any) -> Tensor:
    """The same on the unit sphere, with plain operators and a soft margin."""
    e = F.normalize(m(b["x"]))
    distance = (e[:, None] - e[None]).norm(dim=-1)
    same = b["y"][:, None] == b["y"][None]
    hardest = torch.where(same, distance, -torch.inf).amax(1) - torch.where(same, torch.inf, distance).amin(1)
    return F.softplus(hardest).mean()


def ranked(m: nn.Module, b: Any) -> Tensor:
    """ListMLE: the likelihood of the right order."""
    scores = m(b["x"]).gather(1, b["z"].argsort(1, descending=True))
    return (scores.flip(1).logcumsumexp(1).flip(1) - scores).mean()


def correlated(m: nn.Module, b: Any) -> Tensor:
    """Pearson's correlation with values, and covariances of the scores among each other."""
    a, c = m(b["x"]), m(b["other"])
    both = torch.corrcoef(torch.stack([a.flatten(), b["z"].flatten()]))
    return -both[0, 1] + (c.T.cov(correction=0).square().sum() + c[:, 0].cov()) / 9 + c.T.corrcoef().sum() / 9


def quantile_loss(m: nn.Module, b: Any) -> Tensor:
    error = b["z"] - m(b["x"])
    return torch.maximum(0.9 * error, -0.1 * error).mean()


def wasserstein(m: nn.Module, b: Any) -> Tensor:
    p, q = m(b["x"]).softmax(1), b["z"].softmax(1)
    return (p.cumsum(1) - q.cumsum(1)).abs().sum(1).mean()


def sliced(m: nn.Module, b: Any) -> Tensor:
    return F.mse_loss(m(b["x"]).sort(0).values, b["z"].sort(0).values)


LOSSES: dict[str, Loss] = {
    "triplet_margin": of_three(F.triplet_margin_loss),
    "triplet_margin_swap": of_three(F.triplet_margin_loss, swap=True, margin=2.0),
    "triplet_margin_p1": of_three(F.triplet_margin_loss, p=1.0, margin=3.0),
    "triplet_with_cosine": of_three(
        F.triplet_margin_with_distance_loss, distance_function=lambda a, b: 1 - F.cosine_similarity(a, b)
    ),
    "cosine_embedding": of_two(F.cosine_embedding_loss, "side", margin=0.2),
    "hinge_embedding": of(lambda x, side: F.hinge_embedding_loss(x.abs().sum(1), side, margin=4.0), "side"),
    "margin_ranking": of_two(
        lambda a, b, side: F.margin_ranking_loss(a[:, 0], b[:, 0], side, margin=0.5), "side"
    ),
    "multi_margin": of(F.multi_margin_loss, "y"),
    "multi_margin_p2": of(F.multi_margin_loss, "y", p=2, margin=0.7),
    "multi_margin_weighted": of(lambda x, y: F.multi_margin_loss(x, y, weight=WEIGHTS.to(x.dtype)), "y"),
    "multi_margin_sum": of(F.multi_margin_loss, "y", reduction="sum"),
    "multilabel_margin": of(F.multilabel_margin_loss, "listed"),
    "multilabel_soft_margin": of(F.multilabel_soft_margin_loss, "many"),
    "soft_margin": of(lambda x, m: F.soft_margin_loss(x, 2 * m - 1), "many"),
    "gaussian_nll": variance,
    "gaussian_nll_full": of(lambda x, z: F.gaussian_nll_loss(x, z, x.exp(), full=True), "z"),
    "poisson_nll": of(F.poisson_nll_loss, "counts"),
    "poisson_nll_full": of(F.poisson_nll_loss, "counts", full=True),
    "poisson_nll_of_rates": of(lambda x, c: F.poisson_nll_loss(x.exp(), c, log_input=False), "counts"),
    "kl_div": of(lambda x, z: F.kl_div(x.log_softmax(1), z.softmax(1), reduction="batchmean"), "z"),
    "kl_div_log_target": of(
        lambda x, z: F.kl_div(x.log_softmax(1), z.log_softmax(1), log_target=True, reduction="batchmean"), "z"
    ),
    "cross_entropy_soft": of(lambda x, z: F.cross_entropy(x, z.softmax(1)), "z"),
    "cross_entropy_smooth_weighted": of(
        lambda x, y: F.cross_entropy(x, y, weight=WEIGHTS.to(x.dtype), label_smoothing=0.1),
        "y",
    ),
    "cross_entropy_ignoring": of(lambda x, y: F.cross_entropy(x, y, ignore_index=2), "y"),
    "nll_of_each_step": lambda m, b: F.cross_entropy(
        m(b["seq"]).transpose(1, 2), b["y"][:, None].expand(-1, STEPS)
    ),
    "smooth_l1": of(F.smooth_l1_loss, "z"),
    "huber": of(F.huber_loss, "z", delta=0.5),
    "l1": of(F.l1_loss, "z"),
    "log_cosh": of(lambda x, z: torch.log(torch.cosh(x - z)).mean(), "z"),
    "bce_with_pos_weight": of(
        lambda x, m: F.binary_cross_entropy_with_logits(x, m, pos_weight=torch.full((CLASSES,), 2.0)), "many"
    ),
    "bce": of(lambda x, m: F.binary_cross_entropy(torch.sigmoid(x), m), "many"),
    "focal": focal,
    "dice": dice,
    "contrastive": contrastive,
    "dirichlet": dirichlet,
    "masked_mean": masked,
    "batch_hard_triplet": batch_hard,
    "batch_hard_normalised": batch_hard_normalised,
    "list_mle": ranked,
    "correlated": correlated,
    "quantile": quantile_loss,
    "wasserstein": wasserstein,
    "sorted_mse": sliced,
    "von_mises": of(lambda x, z: (1 - torch.cos(torch.atan2(x, x.flip(1) + 2) - z)).mean(), "z"),
    "ctc": ctc(),
    "ctc_sum": ctc(reduction="sum"),
    "ctc_each": lambda m, b: (ctc(reduction="none")(m, b) * torch.arange(1.0, SAMPLES + 1)).sum(),
    "ctc_blank_last": lambda m, b: F.ctc_loss(
        m(b["seq"]).log_softmax(-1).transpose(0, 1), b["words"] - 1, b["length"], b["spoken"], CLASSES - 1
    ),
    "ctc_zero_infinity": impossible,
    "ctc_lengths_as_numbers": lambda m, b: F.ctc_loss(
        m(b["seq"]).log_softmax(-1).transpose(0, 1), b["words"], (STEPS,) * SAMPLES, (3, 2, 1, 3)
    ),
    "ctc_of_one_sample": lambda m, b: F.ctc_loss(
        m(b["seq"][0]).log_softmax(-1), b["words"][0], torch.tensor(STEPS), torch.tensor(3)
    ),
    "ctc_of_sigmoids": lambda m, b: F.ctc_loss(
        F.logsigmoid(m(b["seq"])).transpose(0, 1), b["words"], b["length"], b["spoken"]
    ),
}
