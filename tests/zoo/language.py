"""Transformers as their library ships them: stock classes of Hugging Face, tiny random configs.

Nothing in them is prepared for compilation. Each is called as its documentation shows, with token ids
and an attention mask, by its default attention (`scaled_dot_product_attention`) or the eager one.
Every parameter is random, norms lie around one. Importing the library takes seconds: the functions do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from models import BATCH_SIZE, CLASSES, TOKENS, VOCABULARY, randomised, sentences
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.task.batch import Batch

WIDTH = 8
PADDING = 0
IMAGE_SIZE, PATCH_SIZE = 8, 4
IGNORED = -100  # a label that the loss leaves out


def library() -> Any:
    """`transformers`, kept off the network."""
    for switch in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(switch, "1")
    import transformers

    return transformers


def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random; the scale of a root-mean-square norm lies around one, too."""
    randomised(net, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in net.modules():
            if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)  # pyright: ignore
    return net


# ---------------------------------------------------------------- what they are trained on


def padded(left: bool = False) -> list[Batch]:
    """Token ids that are padding where the mask says so; a mask and a class each.

    Padding on the left leaves rows of a causal attention without anything to attend to.
    """
    batches = [{**b, "mask": b["mask"].flip(1) if left else b["mask"]} for b in sentences()]
    return [{**b, "ids": b["ids"].clamp(min=1) * b["mask"]} for b in batches]


def pictures(seed: int = 2) -> list[Tensor]:
    """`[N, 3, H, W]` for each batch."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE, generator=g) for _ in sentences()]


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each sample's tokens `[N]`; logits `[N, T, V]`, labels `[N, T]`."""
    each = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return each.sum(1) / (labels != IGNORED).sum(1)


def _task(
    name: str,
    net: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    metric: Callable[[nn.Module, Batch], Tensor],
    batches: list[Batch],
) -> pg.Task:
    return pg.Task(name, drawn(net), loss, metric, batches, batches)


# ---------------------------------------------------------------- classifiers


def _classifier(name: str, net: nn.Module, batches: list[Batch], *inputs: str) -> pg.Task:
    """Cross-entropy of `net(**inputs).logits`; a batch's entries are named as the model calls them."""

    def logits(net: nn.Module, batch: Batch) -> Tensor:
        return net(**{k: batch[k] for k in inputs}).logits

    return _task(
        name,
        net,
        lambda net, b: F.cross_entropy(logits(net, b), b["labels"]),
        lambda net, b: -F.cross_entropy(logits(net, b), b["labels"], reduction="none"),
        batches,
    )


def _sentences() -> list[Batch]:
    return [{"input_ids": b["ids"], "attention_mask": b["mask"], "labels": b["y"]} for b in padded()]


def _bert(name: str, attention: str) -> pg.Task:
    hf = library()
    config = hf.BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * WIDTH, max_position_embeddings=TOKENS, num_labels=CLASSES,
        pad_token_id=PADDING, attn_implementation=attention,
    )  # fmt: skip
    net = hf.BertForSequenceClassification(config)
    return _classifier(name, net, _sentences(), "input_ids", "attention_mask")


def bert_classifier() -> pg.Task:
    return _bert("bert_classifier", "sdpa")


def bert_classifier_eager() -> pg.Task:
    return _bert("bert_classifier_eager", "eager")


def distilbert() -> pg.Task:
    hf = library()
    config = hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=2 * WIDTH,
        max_position_embeddings=TOKENS, num_labels=CLASSES, pad_token_id=PADDING,
    )  # fmt: skip
    net = hf.DistilBertForSequenceClassification(config)
    return _classifier("distilbert", net, _sentences(), "input_ids", "attention_mask")


def vit() -> pg.Task:
    hf = library()
    config = hf.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * WIDTH,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, num_labels=CLASSES,
    )  # fmt: skip
    batches = [{"pixel_values": x, "labels": b["y"]} for x, b in zip(pictures(), sentences())]
    return _classifier("vit", hf.ViTForImageClassification(config), batches, "pixel_values")


# ---------------------------------------------------------------- language models


def _continuations(left: bool = False) -> list[Batch]:
    """Sentences whose labels are their own tokens, padding left out."""
    return [
        {
            "input_ids": b["ids"],
            "attention_mask": b["mask"],
            "labels": b["ids"].masked_fill(b["mask"] == 0, IGNORED),
        }
        for b in padded(left)
    ]


def _likelihood(net: nn.Module, batch: Batch) -> Tensor:
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return -token_losses(logits[:, :-1], batch["labels"][:, 1:])


def _causal(name: str, net: nn.Module, left: bool = False) -> pg.Task:
    """The loss that the model itself computes from `labels`."""
    return _task(name, net, lambda net, b: net(**b).loss, _likelihood, _continuations(left))


def _gpt2_model(**options: Any) -> nn.Module:
    hf = library()
    config = hf.GPT2Config(
        vocab_size=VOCABULARY, n_positions=TOKENS, n_embd=WIDTH, n_layer=2, n_head=2, use_cache=False,
        bos_token_id=1, eos_token_id=2, **options,
    )  # fmt: skip
    return hf.GPT2LMHeadModel(config)


def gpt2() -> pg.Task:
    return _causal("gpt2", _gpt2_model())


def gpt2_shifted() -> pg.Task:
    """The loss written out by the user, on shifted labels; eager attention."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        flat = logits[:, :-1].reshape(-1, VOCABULARY)
        return F.cross_entropy(flat, batch["labels"][:, 1:].reshape(-1), ignore_index=IGNORED)

    net = _gpt2_model(attn_implementation="eager")
    return _task("gpt2_shifted", net, loss, _likelihood, _continuations())


def _llama(name: str, tied: bool, attention: str = "sdpa") -> pg.Task:
    """Grouped queries, rotary positions, gated feed-forward, root-mean-square norms."""
    hf = library()
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        tie_word_embeddings=tied, use_cache=False, attn_implementation=attention,
        pad_token_id=PADDING, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    # Eager attention computes its softmax in float32, where float64's mask makes whole rows of -inf: no
    # referee for samples that begin with padding.
    return _causal(name, hf.LlamaForCausalLM(config), left=attention == "sdpa")


def llama() -> pg.Task:
    return _llama("llama", tied=False)


def llama_tied() -> pg.Task:
    return _llama("llama_tied", tied=True, attention="eager")


def t5() -> pg.Task:
    """Encoder and decoder with relative positions; one embedding for both and for the output."""
    hf = library()
    config = hf.T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=4, d_ff=2 * WIDTH, num_layers=1, num_heads=2,
        relative_attention_num_buckets=4, relative_attention_max_distance=8, use_cache=False,
        pad_token_id=PADDING, decoder_start_token_id=PADDING, eos_token_id=1,
    )  # fmt: skip
    targets = [b["labels"][:, :-1].roll(1, 0) for b in _continuations()]
    batches = [{**b, "labels": y} for b, y in zip(_continuations(), targets)]
    return _task(
        "t5",
        hf.T5ForConditionalGeneration(config),
        lambda net, b: net(**b).loss,
        lambda net, b: -token_losses(net(**b).logits, b["labels"]),
        batches,
    )


# ---------------------------------------------------------------- text and images


def clip() -> pg.Task:
    """Which text belongs to which image: the contrastive loss of both directions."""
    hf = library()
    common = {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 2, "projection_dim": WIDTH,
    }  # fmt: skip
    text = {**common, "vocab_size": VOCABULARY, "max_position_embeddings": TOKENS,
            "pad_token_id": PADDING, "bos_token_id": 1, "eos_token_id": VOCABULARY - 1}  # fmt: skip
    vision = {**common, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    net = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    batches = [
        {"input_ids": b["ids"], "attention_mask": b["mask"], "pixel_values": x}
        for x, b in zip(pictures(), padded())
    ]

    def metric(net: nn.Module, batch: Batch) -> Tensor:
        return net(**batch).logits_per_image.log_softmax(1).diagonal()

    return _task("clip", net, lambda net, b: net(**b, return_loss=True).loss, metric, batches)


MODELS: dict[str, Callable[[], pg.Task]] = {
    f.__name__: f
    for f in (
        bert_classifier, bert_classifier_eager, distilbert, vit, gpt2, gpt2_shifted, llama, llama_tied, t5,
        clip,
    )
}  # fmt: skip
