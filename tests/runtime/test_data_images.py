"""Samples from a folder of images with a table of labels."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_task import Compile

from pockgraph.errors import BatchError
from pockgraph.plan import BatchSpec
from pockgraph.runtime import Trainer
from pockgraph.runtime.command import main
from pockgraph.runtime.data.opening import open_data, training_data
from pockgraph.runtime.data.source import Wanted
from pockgraph.runtime.manifest import Manifest

COUNT = 11
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 6, 3), np.uint8)
LABELS = np.arange(COUNT) % 4
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
INDEX = {"schema": "pockui.images/1", "mean": MEAN, "std": STD}


def index(folder: Path, **fields: Any) -> None:
    (folder / "data.json").write_text(json.dumps(INDEX | fields))


def table(folder: Path, text: str) -> None:
    (folder / "labels.csv").write_text(text)


def rows(names: Any = LABELS) -> str:
    return "file,label\n" + "".join(f"a/{i}.png,{name}\n" for i, name in enumerate(names))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / "a" / f"{number}.png")
    index(folder)
    table(folder, rows())
    return folder


@pytest.fixture
def manifest(compiled: Compile) -> Manifest:
    return compiled("onnx").manifest


def expected() -> np.ndarray:
    """float32 [COUNT, 3, 6, 6]"""
    x = (PIXELS.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return x.transpose(0, 3, 1, 2)


def test_pixels_and_labels_become_batches(folder: Path, manifest: Manifest) -> None:
    data = training_data(folder, manifest)
    found = list(data.batches())
    assert [len(b["y"]) for b in found] == [8, 3]
    x, y = (np.concatenate([b[n] for b in found]) for n in "xy")
    assert x.dtype == np.float32
    assert np.array_equal(x, expected())
    assert np.array_equal(y, LABELS)
    wrapped = (np.arange(8) + 8) % COUNT
    assert np.array_equal(data.batch(1)["x"], expected()[wrapped])
    digest = data.digest()
    Image.fromarray(PIXELS[1]).save(folder / "a" / "0.png")
    assert training_data(folder, manifest).digest() != digest


def test_a_device_trains_evaluates_predicts_and_learns_from_them(
    compiled: Compile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", x=expected(), y=LABELS, image=expected())
    artifact = str(compiled("onnx", predict="named").path)
    said: list[Any] = []
    for data in (folder, tmp_path / "data.npz"):
        given = ["--data", str(data), "--threads", "1"]
        out = tmp_path / f"{data.name}-answers.npz"
        assert main([artifact, *given, "--steps", "3", "--eval", str(data), "--json"]) == 0
        assert main(["predict", artifact, *given, "--out", str(out)]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()[:2]]
        with np.load(out) as answers:
            said.append([events[0]["loss"], events[1]["metric"], answers["logits"].tolist()])
    assert said[0] == said[1]
    assert main(["learn", artifact, "--folder", str(tmp_path / "l"), "--data", str(folder)]) == 0
    counts = re.search(r"(\d+) samples to train on, (\d+) held out", capsys.readouterr().out)
    assert counts
    assert int(counts[1]) + int(counts[2]) == COUNT


def test_predicting_needs_no_labels(compiled: Compile, folder: Path) -> None:
    table(folder, "file\na/3.png\n")
    with Trainer.load(compiled("onnx", predict="named").path, threads=1) as trainer:
        data = open_data(folder, Wanted.for_prediction(trainer.manifest))
    (batch,) = data.batches()
    assert list(batch) == ["image"]
    assert np.array_equal(batch["image"], expected()[3:4])


def test_classes_have_names_where_they_are_given(folder: Path, manifest: Manifest) -> None:
    index(folder, classes=["cat", "dog", "4", "emu"])
    table(folder, rows(["emu", "4", "cat"]))
    assert training_data(folder, manifest).batch(0)["y"][:3].tolist() == [3, 2, 0]


def test_grey_images_channels_last_and_whole_pixels(folder: Path) -> None:
    grey = PIXELS[..., 0]
    for number, pixels in enumerate(grey):
        Image.fromarray(pixels).save(folder / "a" / f"{number}.png")
    index(folder, channels="last", mean=None, std=None)
    entries = {"p": BatchSpec(shape=(4, 6, 6, 1), dtype="uint8")}
    batch = open_data(folder, Wanted("grey", entries, ["p"], 4, "")).batch(0)
    assert np.array_equal(batch["p"], grey[:4, ..., None])


def test_other_sizes_are_resized_where_that_is_asked_for(folder: Path, manifest: Manifest) -> None:
    large = np.kron(PIXELS[0], np.ones((4, 4, 1), np.uint8))
    wide = np.concatenate([np.zeros((24, 12, 3), np.uint8), large, np.zeros((24, 12, 3), np.uint8)], 1)
    Image.fromarray(large).save(folder / "a" / "0.png")
    Image.fromarray(wide).save(folder / "a" / "1.png")
    index(folder, resize="crop")
    cut = training_data(folder, manifest).batch(0)["x"]
    inside = slice(1, -1)  # a filter reaches over the edge of what is cut out
    assert np.array_equal(cut[0][..., inside], cut[1][..., inside])
    index(folder, resize="stretch")
    stretched = training_data(folder, manifest).batch(0)["x"]
    assert np.array_equal(stretched[0], cut[0])
    assert not np.allclose(stretched[1][..., inside], cut[1][..., inside])


def _image(mode: str, size: tuple[int, int]) -> Callable[[Path], Any]:
    return lambda f: Image.new(mode, size).save(f / "a" / "2.png")


def _cut_short(folder: Path) -> None:
    path = folder / "a" / "2.png"
    path.write_bytes(path.read_bytes()[:-30])


def _linked(folder: Path) -> None:
    (folder / "a" / "2.png").rename(folder.parent / "2.png")
    (folder / "a" / "2.png").symlink_to(folder.parent / "2.png")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (_cut_short, r"a/2\.png \(labels\.csv, line 4\) cannot be decoded: .*truncated"),
    "no image": (
        lambda f: (f / "a" / "2.png").write_text("%!PS"),
        r"a/2\.png \(labels\.csv, line 4\) is no image of a kind that is read: PNG, JPEG",
    ),
    "another size": (_image("RGB", (7, 5)), r"2\.png .* is 7×5 pixels, and 'x' of task 'tiny' takes 6×6"),
    "grey": (_image("L", (6, 6)), r"2\.png \(labels\.csv, line 4\) is grey, .* takes RGB"),
    "transparent": (_image("RGBA", (6, 6)), "is of mode RGBA"),
    "a missing file": (lambda f: (f / "a" / "2.png").unlink(), r"line 4, names 'a/2\.png', and there is no"),
    "a folder": (lambda f: table(f, "file,label\na,1\n"), "line 2, names 'a', and there is no such file"),
    "leads out": (lambda f: table(f, "file,label\n../images/a/2.png,1\n../x.png,1\n"), "line 3, .*leads out"),
    "absolute": (lambda f: table(f, "file,label\n/etc/hostname,1\n"), "line 2, .*leads out"),
    "a link out": (_linked, "line 4, .*leads out"),
    "no number": (lambda f: table(f, rows(["1", "two"])), "line 3, has the label 'two', which is no"),
    "half a class": (lambda f: table(f, rows(["1.5"])), "'1.5', which is no whole number"),
    "no class of the model": (lambda f: table(f, rows(["1", "4"])), "line 3, has the label 4, .*: 0 to 3"),
    "no named class": (
        lambda f: (index(f, classes=["cat", "dog"]), table(f, rows(["cat", "dgo"]))),
        "line 3, has the label 'dgo', .* Did you mean 'dog'",
    ),
    "an unknown column": (lambda f: table(f, "file,labels\n"), "column 'labels', .*Did you mean 'label'"),
    "no label": (lambda f: table(f, "file\na/0.png\n"), "has no column 'label'"),
    "more cells": (lambda f: table(f, "file,label\na,b.png,1\n"), "line 2, has 3 cells instead of 2"),
    "no rows": (lambda f: table(f, "file,label\n"), "names no images"),
    "no table": (lambda f: (f / "labels.csv").unlink(), "Cannot read .*labels.csv: no such file"),
    "no text": (lambda f: (f / "labels.csv").write_bytes(b"file,label\n\xff"), "not UTF-8"),
    "not normalised": (lambda f: index(f, mean=None, std=None), "does not say how the model was fed"),
    "half normalised": (lambda f: index(f, std=None), "mean and std belong together"),
    "two means": (lambda f: index(f, mean=[0, 0]), "gives 2 numbers as mean, for 3 channels"),
    "divided by 0": (lambda f: index(f, std=[0]), "std.0: it must be greater than 0"),
    "a mean of bytes": (lambda f: index(f, mean=[127.5], std=[0.5]), "gives 127.5 as mean.*by 255"),
    "a deviation of bytes": (lambda f: index(f, std=[58.4, 0.2, 0.2]), "gives 58.4 as std.*by 255"),
    "divided by less than float32 holds": (lambda f: index(f, std=[1e-50]), "a std that is 0 in float32"),
    "mistyped": (lambda f: index(f, channel="last"), "channel: there is no such entry"),
    "another entry": (lambda f: index(f, image="xs"), "calls the image 'xs'"),
    "channels last": (lambda f: index(f, channels="last"), "no entry of a batch is of images"),
}  # fmt: skip


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_with_its_file_and_line(
    folder: Path, manifest: Manifest, change: tuple[Callable[[Path], Any], str]
) -> None:
    change[0](folder)
    with pytest.raises(BatchError, match=change[1]) as e:
        list(training_data(folder, manifest).batches())
    assert "\n" not in str(e.value)


def test_a_missing_pillow_is_named(folder: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BatchError, match=r"pip install 'pockui\[images\]'"):
        training_data(folder, manifest)


def test_other_entries_are_refused(folder: Path, manifest: Manifest) -> None:
    more = manifest.model_copy(
        update={"batch": {**manifest.batch, "age": BatchSpec(shape=(8,), dtype="float32")}}
    )
    with pytest.raises(BatchError, match="a batch needs 'age', too"):
        training_data(folder, more)
