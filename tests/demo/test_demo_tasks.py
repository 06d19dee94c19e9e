"""The demo tasks: real weights, real data, a split that never moves, and nothing fetched."""

from __future__ import annotations

import hashlib
import socket
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from pockgraph.errors import PockError, TaskError
from pockui.demo import data, efficientnet, text, vision

PARTS = ("train", "validation", "eval")
LENGTH = 32  # tokens: half of the default, for speed


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a demo task opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("POCKUI_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    """On a busy machine the threads of one small convolution wait for each other far longer than it takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    return vision.task(batch_size=50)


@pytest.fixture(scope="module")
def tweets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKUI_CACHE", "/dev/null/nowhere")
        return text.task(batch_size=50, length=LENGTH)


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def probe(train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Accuracy of a ridge regression on standardised features."""
    (x, y), (xt, yt) = train, test
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, xt = (x - mean) / std, (xt - mean) / std
    target = torch.nn.functional.one_hot(y).float()
    weight = torch.linalg.solve(x.T @ x + x.shape[1] * torch.eye(x.shape[1]), x.T @ (target - target.mean(0)))
    return ((xt @ weight + target.mean(0)).argmax(1) == yt).float().mean().item()


def features(model, batches, keys) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        rows = [(model.features(*(b[k] for k in keys)), b["y"]) for b in batches]
    return torch.cat([f for f, _ in rows]), torch.cat([y for _, y in rows])


# --- assets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [vision.task, text.task, text.minilm])
def test_missing_package_says_what_and_how_to_install(make, monkeypatch):
    def absent(name: str):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(data, "distribution", absent)
    vision._digits.cache_clear()
    with pytest.raises(data.AssetMissing, match=r"pip install 'pockui\[demo\]'") as caught:
        make()
    assert isinstance(caught.value, PockError)
    assert "is not installed" in str(caught.value)


def test_package_without_the_file_is_missing_too():
    with pytest.raises(data.AssetMissing, match=r"a map.*'numpy' has no 'numpy/none\.bin'"):
        data.find_asset("numpy", "numpy/none.bin", "a map")


# --- splits -----------------------------------------------------------------------------------------


def test_stratified_split_is_disjoint_and_every_prefix_is_representative():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    parts = data.stratified_split(labels, (500, 100, 400))
    assert sorted(np.concatenate(parts)) == list(range(1000))
    for part, size in zip(parts, (500, 100, 400)):
        assert len(part) == size
        for stop in (50, size):
            share = np.bincount(labels[part[:stop]], minlength=3) / stop
            assert np.abs(share - [0.7, 0.2, 0.1]).max() <= 2 / stop
    # Shuffled within that order: a batch is not a fixed cycle of classes.
    assert len({tuple(labels[parts[0][i : i + 10]]) for i in range(0, 500, 10)}) > 10


def test_stratified_split_refuses_more_than_there_is():
    with pytest.raises(ValueError, match="need 11"):
        data.stratified_split(np.zeros(10, dtype=int), (6, 5))


def test_digits_never_change_part():
    parts = vision.splits()
    assert [len(p["y"]) for p in parts] == [3000, 1000, 1000]
    assert all((np.bincount(p["y"]) == len(p["y"]) // 10).all() for p in parts)
    rows = [row.tobytes() for p in parts for row in p["pixels"]]
    assert len(set(rows)) == 5000
    assert digest(*(p["y"] for p in parts), *(p["pixels"] for p in parts)) == "fc73559c3c042514"


def test_tweets_never_change_part():
    parts = text.splits()
    assert [len(p["y"]) for p in parts] == [8000, 1000, 2000]
    assert all(p["y"].mean() == pytest.approx(0.298, abs=0.002) for p in parts)
    train, validation, test = ({row.tobytes() for row in p["ids"]} for p in parts)
    shared = (train & validation) | (train & test) | (validation & test)
    assert not shared
    assert digest(*(a for p in parts for a in (p["ids"], p["mask"], p["y"]))) == "d9cf2239ce5e5018"


def test_tweets_drop_copies_neutrals_and_disputed_labels():
    corpus = (
        "sentiment,confidence,text\n"
        "positive,1,Great flight @united! http://t.co/a1\n"
        'positive,,"RT @bob: great flight, @jetblue http://t.co/zz"\n'
        "negative,0.7,lost my bag\n"
        "neutral,0.7,It is a plane\n"
        "negative,1,so so\n"
        "positive,1,So. So!\n"
        "neutral,1,caf\xe9 late\n"
        "negative,1,@united http://t.co/only\n"
    ).encode("latin-1")
    texts, y = text.read_tweets(corpus)
    assert texts == ["Great flight @united! http://t.co/a1", "lost my bag"]
    assert y.tolist() == [1, 0]


# --- batches ----------------------------------------------------------------------------------------


def test_digit_batches_have_the_promised_shape_and_scale(digits):
    for part in PARTS:
        batch = next(iter(getattr(digits, part)))
        assert list(batch) == ["x", "y"]
        assert batch["x"].shape == (50, 3, 64, 64)
        assert batch["x"].dtype == torch.float32
        assert batch["x"].is_contiguous()
        assert batch["y"].dtype == torch.int64
        assert batch["x"].min() == -127 / 128  # black background
        assert 0.9 < batch["x"].max() <= 1


def test_enlarging_keeps_pixels_in_place():
    pixels = torch.zeros(1, 28, 28, dtype=torch.uint8)
    pixels[0, 3:7, 20:28] = 255
    x = vision.Enlarge(56)({"pixels": pixels, "y": torch.zeros(1)})["x"]
    assert (x[:, :, 7:13, 41:56] == 1).all()
    assert (x[:, :, :5] == -127 / 128).all()
    assert (x[:, 0] == x[:, 1]).all()
    assert (x[:, 0] == x[:, 2]).all()


def test_tweet_batches_have_the_promised_shape(tweets):
    for part in PARTS:
        batch = next(iter(getattr(tweets, part)))
        assert {k: (tuple(v.shape), v.dtype) for k, v in batch.items()} == {
            "ids": ((50, LENGTH), torch.int64),
            "mask": ((50, LENGTH), torch.int64),
            "y": ((50,), torch.int64),
        }
        assert (batch["ids"][:, 0] == 101).all()  # [CLS]
        assert ((batch["ids"] == 102).sum(1) == 1).all()  # one [SEP], even when cut
        assert ((batch["ids"] != 0) == batch["mask"].bool()).all()
        assert (batch["mask"].diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", ["digits", "tweets"])
def test_data_can_be_read_again_and_reshuffled(name, request):
    task = request.getfixturevalue(name)
    for part in PARTS:
        once, again = (next(iter(getattr(task, part))) for _ in range(2))
        assert all(torch.equal(once[k], again[k]) for k in once)
    first, second = (next(task.epoch(seed))["y"] for seed in (1, 2))
    assert not torch.equal(first, second)


def test_seed_draws_head_and_order_only():
    one, same, other = (vision.task(px=32, seed=seed) for seed in (1, 1, 2))
    for fqn, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, same.model.state_dict()[fqn])
        assert torch.equal(tensor, other.model.state_dict()[fqn]) == (fqn not in one.fresh), fqn
    assert torch.equal(one.example["x"], same.example["x"])
    assert not torch.equal(one.example["x"], other.example["x"])
    assert torch.equal(next(iter(one.eval))["x"], next(iter(other.eval))["x"])


def test_tasks_leave_the_global_random_state_alone():
    state = torch.get_rng_state()
    efficientnet.efficientnet_lite0(10, pretrained=False)
    vision.task()
    text.minilm()
    assert torch.equal(state, torch.get_rng_state())


def test_train_limit_keeps_classes_in_balance():
    task = vision.task(batch_size=100, px=32, train_limit=200)
    assert len(list(task.train)) == 2
    counts = torch.cat([b["y"] for b in task.train]).bincount(minlength=10)
    assert (counts - 20).abs().max() <= 2


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (vision.task, {"px": 16}, "px=16"),
        (vision.task, {"px": 32, "train_limit": 4}, "a batch takes 8"),
        (text.task, {"length": 513}, "length=513"),
        (text.task, {"length": 2}, "length=2"),
    ],
)
def test_impossible_options_are_refused(make, options, says):
    with pytest.raises(TaskError, match=says):
        make(**options)


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    path = data.find_asset(efficientnet.WEIGHTS_PACKAGE, efficientnet.WEIGHTS_PATH, "weights")
    return torch.load(path, weights_only=True)


def test_weights_load_strictly_and_only_the_head_is_new(digits, weights):
    net = efficientnet.EfficientNetLite0()
    net.load_state_dict(weights, strict=True)
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    assert {m.eps for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    state = digits.model.state_dict()
    assert state.keys() == weights.keys()
    for fqn, tensor in state.items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor, weights[fqn]) if fqn not in digits.fresh else len(tensor) == 10, fqn


def test_imagenet_classes_are_recognised(weights):
    """Three photographs from installed packages: a wrong block, scale or layout would not survive this."""
    image = pytest.importorskip("PIL.Image")
    net = efficientnet.EfficientNetLite0()
    net.load_state_dict(weights)
    net.eval()
    for package, path, classes in [
        ("scikit-learn", "sklearn/datasets/images/flower.jpg", {985}),  # daisy
        (
            "scikit-learn",
            "sklearn/datasets/images/china.jpg",
            {698, 442, 663},
        ),  # palace, bell tower, monastery
        ("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg", {652}),  # military uniform
    ]:
        photo = image.open(data.find_asset(package, path, "a photograph")).convert("RGB")
        w, h = photo.size
        s = min(w, h)
        box = ((w - s) // 2, (h - s) // 2, (w + s) // 2, (h + s) // 2)
        pixels = torch.from_numpy(np.array(photo.crop(box).resize((224, 224), image.Resampling.BICUBIC)))
        with torch.no_grad():
            top = net(((pixels.float() - 127) / 128).permute(2, 0, 1)[None]).argmax().item()
        assert top in classes, path


@pytest.mark.parametrize(("size", "kernel", "before"), [(8, 3, 0), (9, 3, 1), (8, 5, 1), (9, 5, 2)])
def test_strided_convolutions_pad_like_tensorflow(size, kernel, before):
    conv = efficientnet.SameConv2d(1, 1, kernel, stride=2)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, before, before] = 1  # picks the pixel under the kernel's tap `before`
    x = torch.rand(1, 1, size, size)
    assert torch.equal(conv(x), x[:, :, ::2, ::2])


def test_without_pretraining_the_signal_reaches_the_head():
    net = efficientnet.efficientnet_lite0(10, pretrained=False, seed=1)
    with torch.no_grad():
        f = net.features(vision.task(batch_size=16, px=32).example["x"])
    assert f.isfinite().all()
    assert 0.1 < f.std() < 10
    assert f.std(0).mean() > 0.01  # differs between digits


# --- MiniLM -----------------------------------------------------------------------------------------


def test_pooled_features_equal_those_of_transformers(tweets):
    batch = {k: v[:4] for k, v in tweets.example.items()}
    with torch.no_grad():
        tokens = tweets.model.bert(input_ids=batch["ids"], attention_mask=batch["mask"]).last_hidden_state
        ours = tweets.model.features(batch["ids"], batch["mask"])
    theirs = torch.stack([t[m.bool()].mean(0) for t, m in zip(tokens, batch["mask"])])
    torch.testing.assert_close(ours, theirs)


def test_padded_tokens_change_no_result(tweets):
    ids = torch.tensor([[101, 2307, 3462, 102, 0, 0, 0]])
    with torch.no_grad():
        short = tweets.model(ids[:, :4], torch.ones(1, 4, dtype=torch.int64))
        long = tweets.model(ids, (ids != 0).long())
    torch.testing.assert_close(short, long)


def test_similar_sentences_are_near(tweets):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(text._model_folder() / "tokenizer.json"))
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(
        ["The plane was late again.", "My flight got delayed once more.", "I baked bread."]
    )
    ids, mask = (torch.tensor([getattr(e, a) for e in found]) for a in ("ids", "attention_mask"))
    with torch.no_grad():
        a, b, c = torch.nn.functional.normalize(tweets.model.features(ids, mask), dim=1)
    assert a @ b > 0.6
    assert a @ c < 0.3


# --- both -------------------------------------------------------------------------------------------


def test_digits_are_learnable_from_frozen_features():
    task = vision.task(batch_size=50)
    train, test = (features(task.model, d.limit(n), "x") for d, n in ((task.train, 12), (task.eval, 6)))
    assert probe(train, test) > 0.75


@pytest.mark.slow
def test_tweets_are_learnable_from_frozen_features(tweets):
    keys = ("ids", "mask")
    train, test = (
        features(tweets.model, d.limit(n), keys) for d, n in ((tweets.train, 10), (tweets.eval, 6))
    )
    assert probe(train, test) > 0.78 > (test[1] == 0).float().mean() + 0.05  # always "negative" is .70


@pytest.mark.parametrize("name", ["digits", "tweets"])
def test_loss_and_metric_are_as_promised_and_every_parameter_counts(name, request):
    task = request.getfixturevalue(name)
    batch = {k: v[:4] for k, v in task.example.items()}
    loss = task.loss(task.model, batch)
    assert loss.shape == ()
    grads = torch.autograd.grad(loss, list(task.model.parameters()))  # raises for an unused one
    assert all(g.isfinite().all() for g in grads)
    score = task.metric(task.model, batch)
    assert score.dtype == torch.float32
    inputs = [v for k, v in batch.items() if k != "y"]
    assert torch.equal(score == 1, task.model(*inputs).argmax(1) == batch["y"])
    assert not task.model.training


@pytest.mark.parametrize("name", ["digits", "tweets"])
def test_models_export_with_static_shapes(name, request):
    task = request.getfixturevalue(name)
    inputs = tuple(v[:2] for k, v in task.example.items() if k != "y")
    exported = torch.export.export(task.model, inputs).module()
    others = tuple(v[-2:] for k, v in task.example.items() if k != "y")
    with torch.no_grad():
        torch.testing.assert_close(exported(*others), task.model(*others))


# --- cache ------------------------------------------------------------------------------------------


def test_prepared_arrays_are_kept_and_reused(cache, monkeypatch):
    first = text.splits(8)
    monkeypatch.setattr(text, "_tokenise", lambda *_: pytest.fail("tokenised again"))
    assert digest(*first[0].values()) == digest(*text.splits(8)[0].values())
    assert not list(cache.glob("*.tmp"))
    with pytest.raises(pytest.fail.Exception):
        text.splits(9)  # another length is another entry


def test_damaged_or_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    made = {"a": np.arange(3)}
    monkeypatch.setenv("POCKUI_CACHE", str(tmp_path))
    for junk in (b"", b"junk", b"PK\x03\x04 cut off"):
        (tmp_path / "x.npz").write_bytes(junk)
        assert data.cached("x", lambda: made)["a"].tolist() == [0, 1, 2]
        assert data.cached("x", lambda: pytest.fail("not mended"))["a"].tolist() == [0, 1, 2]
    blocker = tmp_path / "file"
    blocker.touch()
    monkeypatch.setenv("POCKUI_CACHE", str(blocker / "folder"))
    assert data.cached("x", lambda: made) is made
