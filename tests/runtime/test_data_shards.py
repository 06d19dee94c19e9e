"""Samples from folders of shards."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import ROWS, Compile, samples

from pockgraph.errors import BatchError
from pockgraph.plan import BatchSpec
from pockgraph.runtime.command import main
from pockgraph.runtime.data.opening import open_data, training_data
from pockgraph.runtime.data.shard_writer import ShardWriter, writing_shards
from pockgraph.runtime.data.source import Data, Wanted
from pockgraph.runtime.manifest import Manifest

ARRAYS = {k: v.numpy() for k, v in samples().items()}
SHARD_BYTES = 3000  # six or seven of the samples


def write(folder: Path, arrays: dict[str, np.ndarray], shared: dict[str, np.ndarray] | None = None) -> Path:
    with writing_shards(folder, SHARD_BYTES) as writer:
        for start in range(0, len(arrays["y"]), 3):
            writer.add({n: a[start : start + 3] for n, a in arrays.items()})
        writer.finish(shared or {})
    return folder


def as_file(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "shards", ARRAYS)


@pytest.fixture
def manifest(compiled: Compile) -> Manifest:
    return compiled("onnx").manifest


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


def test_shards_hold_what_one_file_holds(folder: Path, tmp_path: Path, manifest: Manifest) -> None:
    shards = training_data(folder, manifest)
    file = training_data(as_file(tmp_path / "data.npz", ARRAYS), manifest)
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert shards.samples == file.samples
    for number in (*range(6), 10**9, 2):  # backwards, too
        assert equal(shards.batch(number), file.batch(number))
    read: tuple[Callable[[Data], Any], ...] = (Data.batches, Data.each)
    for way in read:
        ours, theirs = list(way(shards)), list(way(file))
        assert len(ours) == len(theirs)
        assert all(map(equal, ours, theirs))
    assert shards.digest() == training_data(folder, manifest).digest() != file.digest()


def test_fewer_samples_than_a_batch_are_repeated(tmp_path: Path, manifest: Manifest) -> None:
    few = {n: a[:3] for n, a in ARRAYS.items()}
    data = training_data(write(tmp_path / "few", few), manifest)
    assert np.array_equal(data.batch(0)["y"], few["y"][np.arange(ROWS) % 3])
    assert np.array_equal(data.batch(1)["y"], few["y"][np.arange(ROWS, 2 * ROWS) % 3])


def test_what_all_samples_share_is_stored_once(tmp_path: Path, manifest: Manifest) -> None:
    scaled = manifest.model_copy(
        update={"batch": {**manifest.batch, "scale": BatchSpec(shape=(2,), dtype="float32")}}
    )
    scale = np.array([2, 3], np.float32)
    data = training_data(write(tmp_path / "shared", ARRAYS, {"scale": scale}), scaled)
    assert all(np.array_equal(b["scale"], scale) for b in (*data.batches(), data.batch(7)))
    lacking = write(tmp_path / "lacking", ARRAYS)
    with pytest.raises(BatchError, match="lacks 'scale'"):
        training_data(lacking, scaled)
    wrong = write(tmp_path / "wrong", {"y": ARRAYS["y"]}, {"x": ARRAYS["x"]})
    with pytest.raises(BatchError, match="one 'x' for all samples"):
        training_data(wrong, manifest)


def test_memory_is_that_of_a_shard(tmp_path: Path) -> None:
    shards, rows, row_bytes, shard_bytes = 16, 16, 1 << 16, 1 << 20
    tracemalloc.start()
    with writing_shards(tmp_path / "large", shard_bytes) as writer:
        for number in range(shards):
            writer.add({"x": np.full((rows, row_bytes), number, np.uint8)})
        writer.finish({})
    _, writing = tracemalloc.get_traced_memory()
    wanted = Wanted("large", {"x": BatchSpec(shape=(4, row_bytes), dtype="uint8")}, ["x"], 4, "")
    data = open_data(tmp_path / "large", wanted)
    tracemalloc.reset_peak()
    assert [int(b["x"].max()) for b in data.batches()] == [i // 4 for i in range(4 * shards)]
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert data.samples * row_bytes == shards * shard_bytes
    assert writing < 6 * shard_bytes
    assert reading < 2 * shard_bytes


def test_a_resumed_run_goes_on_at_the_same_sample(
    compiled: Compile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def losses(data: Path, *more: str) -> list[float]:
        args = [str(compiled("onnx").path), "--data", str(data), "--every", "1", "--threads", "1", "--json"]
        assert main([*args, *more]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [e["loss"] for e in events if e["event"] == "step"]

    saved = str(tmp_path / "saved")
    whole = losses(as_file(tmp_path / "data.npz", ARRAYS), "--steps", "5")
    first = losses(folder, "--steps", "2", "--save", saved)
    assert first + losses(folder, "--steps", "3", "--resume", saved, "--eval", str(folder)) == whole


def changed(folder: Path, **fields: Any) -> None:
    index = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(index | fields))


def _flip(folder: Path) -> None:
    path = folder / "000001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _rename(folder: Path, name: str) -> None:
    index = json.loads((folder / "data.json").read_text())
    index["shards"][0]["file"] = name
    changed(folder, shards=index["shards"])


def _link(folder: Path) -> None:
    shutil.move(folder / "000000.safetensors", folder.parent / "elsewhere")
    (folder / "000000.safetensors").symlink_to(folder.parent / "elsewhere")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shard is missing": (lambda f: (f / "000001.safetensors").unlink(), "000001.safetensors is missing"),
    "a shard is cut short": (lambda f: (f / "000001.safetensors").write_bytes(b"1234"), "has 4 bytes"),
    "a bit is another": (_flip, "000001.safetensors was changed or damaged"),
    "a shard leads out": (lambda f: _rename(f, "../x.safetensors"), "shards.0.file"),
    "a shard is a link": (_link, "a link to a place outside|operation not permitted"),
    "the shapes are others": (
        lambda f: changed(
            f, entries={"x": {"dtype": "float32", "shape": [9]}, "y": {"dtype": "int64", "shape": []}}
        ),
        "does not hold what data.json says of 'x'",
    ),
    "samples are too many": (lambda f: changed(f, samples=1 << 40), "do not hold 1099511627776 samples"),
    "of a later version": (lambda f: changed(f, schema="pockui.shards/2"), "schema 'pockui.shards/2', and"),
    "no index": (lambda f: (f / "data.json").unlink(), "has no data.json"),
    "no JSON": (lambda f: (f / "data.json").write_text("{"), "Cannot read .*data.json"),
    "no object": (lambda f: (f / "data.json").write_text("[]"), "holds no JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_shards_are_refused_by_name(
    folder: Path, manifest: Manifest, damage: tuple[Callable[[Path], Any], str]
) -> None:
    damage[0](folder)
    with pytest.raises(BatchError, match=damage[1]) as e:
        list(training_data(folder, manifest).batches())
    assert "\n" not in str(e.value)


def test_only_shards_are_replaced_and_only_by_whole_ones(folder: Path, manifest: Manifest) -> None:
    def begin(then: Callable[[ShardWriter], None]) -> None:
        with writing_shards(folder, 100) as writer:
            writer.add(ARRAYS)
            then(writer)

    def interrupt(_: ShardWriter) -> None:
        raise KeyboardInterrupt

    before = training_data(folder, manifest).digest()
    with pytest.raises(KeyboardInterrupt):
        begin(interrupt)
    with pytest.raises(BatchError, match="'y' differ in shape or dtype"):
        begin(lambda writer: writer.add({"x": ARRAYS["x"], "y": ARRAYS["y"].astype(np.int32)}))
    assert training_data(folder, manifest).digest() == before
    assert [p.name for p in folder.parent.iterdir()] == ["shards"]
    write(folder, {n: a[:9] for n, a in ARRAYS.items()})
    assert training_data(folder, manifest).samples == 9
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BatchError, match="holds something else than shards"):
        write(folder, ARRAYS)
    assert (folder / "notes.txt").read_text() == "mine"
