"""Users' files are damaged, forged or half written; their disks are full; their folders hold other things."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from users import MOMENTUM, batches, mlp, task

import pockgraph as pg
from pockgraph import files
from pockgraph.errors import ArtifactError, PlanError
from pockgraph.runtime import Trainer
from pockgraph.runtime.checkpoint import save_checkpoint

DATA = batches(8, 12)


def compiled(folder: Path, target: str, net: nn.Module | None = None, **how: Any) -> pg.Artifact:
    torch.manual_seed(0)
    options = {k: how.pop(k) for k in ("loss", "data") if k in how}
    graph = pg.build(task(net or mlp(), options.pop("data", DATA), **options), how.pop("optimizer", MOMENTUM))
    return pg.compile(graph, target=target, out=folder, parity=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def make(target: str) -> Path:
        if target not in found:
            found[target] = compiled(tmp_path_factory.mktemp("made") / target, target).path
        return found[target]

    return make


@pytest.fixture
def copied(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda target: Path(shutil.copytree(made(target), tmp_path / "artefact"))


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files, as whoever forges them can."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    for name in data["files"]:
        content = (folder / name).read_bytes()
        data["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(data))


# ---------------------------------------------------------------- which checkpoint fits


def tanh() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))


def smoothed(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=0.1)


def weighted(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], weight=torch.tensor([1.0, 2, 1, 1, 1]))


@pytest.mark.parametrize(
    "other",
    [
        {"net": tanh},
        {"loss": smoothed},
        {"loss": weighted},
        {"net": lambda: nn.Sequential(*mlp(), nn.ReLU())},
    ],
    ids=["another activation", "another loss", "class weights", "an operator more"],
)
def test_a_checkpoint_does_not_load_into_another_computation(tmp_path: Path, other: dict[str, Any]) -> None:
    first = compiled(tmp_path / "relu", "onnx").trainer(threads=1)
    first.step(DATA[0])
    saved = first.save(tmp_path / "saved")
    how = {**other, **({"net": other["net"]()} if "net" in other else {})}
    second = compiled(tmp_path / "other", "onnx", **how).trainer(threads=1)
    with pytest.raises(ArtifactError, match="operators of the forward pass or the loss differ"):
        second.load_checkpoint(saved)
    assert second.steps == 0


def test_a_checkpoint_goes_on_with_another_batch_size(tmp_path: Path) -> None:
    first = compiled(tmp_path / "eight", "onnx").trainer(threads=1)
    first.step(DATA[0])
    small = batches(3, 12)
    second = compiled(tmp_path / "three", "onnx", data=small).trainer(threads=1)
    second.load_checkpoint(first.save(tmp_path / "saved"))
    assert second.step(small[0]).step == 2


def test_a_checkpoint_moves_between_targets_in_the_middle_of_accumulation(tmp_path: Path) -> None:
    optimizer = pg.AdamW(lr=0.01, accumulate=3, ema_decay=0.9)
    trainers = {
        t: compiled(tmp_path / t, t, optimizer=optimizer).trainer(threads=1)
        for t in ("openvino", "onnx", "torch")
    }
    alone = compiled(tmp_path / "alone", "torch", optimizer=optimizer).trainer(threads=1)
    saved = tmp_path / "saved"
    for i, target in enumerate(("openvino", "onnx", "torch", "onnx", "openvino")):
        trainer = trainers[target]
        if i:
            trainer.load_checkpoint(saved)
        for k in range(2):
            trainer.step(DATA[(2 * i + k) % 3])
            alone.step(DATA[(2 * i + k) % 3])
        trainer.save(saved)
        for averaged in (False, True):
            state = trainer.state(averaged=averaged)
            for fqn, value in alone.state(averaged=averaged).items():
                np.testing.assert_allclose(state[fqn], value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("field", ["step", "seed"])
def test_the_header_of_a_checkpoint_cannot_be_changed(tmp_path: Path, field: str) -> None:
    trainer = compiled(tmp_path / "out", "onnx").trainer(threads=1)
    saved = trainer.save(tmp_path / "saved")
    with safe_open(saved, framework="numpy") as f:
        header, arrays = json.loads(f.metadata()["pockui"]), {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
    header[field] = 7
    save_file(arrays, saved, {"pockui": json.dumps(header)})
    with pytest.raises(ArtifactError, match="its values or its header changed"):
        trainer.load_checkpoint(saved)


def test_checkpoints_and_artefacts_of_the_first_version_open(tmp_path: Path) -> None:
    artifact = compiled(tmp_path / "out", "onnx")
    trainer = artifact.trainer(threads=1)
    trainer.step(DATA[0])
    saved = trainer.save(tmp_path / "saved")
    with safe_open(saved, framework="numpy") as f:
        header, arrays = json.loads(f.metadata()["pockui"]), {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode() + arrays[name].tobytes())
    del header["computation"]
    header |= {"schema": "pockui.checkpoint/1", "sha256": digest.hexdigest()}
    save_file(arrays, saved, {"pockui": json.dumps(header)})
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    del manifest["computation"]
    (artifact.path / "manifest.json").write_text(json.dumps(manifest))
    old = Trainer.load(artifact.path, threads=1)
    old.load_checkpoint(saved)
    assert old.steps == 1
    assert all(np.array_equal(a, old.state()[n]) for n, a in trainer.state().items())


# ---------------------------------------------------------------- forged artefacts


def edit(path: Path, pattern: str, text: str) -> None:
    content, count = re.subn(pattern, text, path.read_text(), count=1)
    assert count == 1
    path.write_text(content)


XML = {
    "a state without its shape": (r' variable_shape="5"', ""),
    "a state of another type": (r'variable_type="f32"', 'variable_type="string"'),
    "a state without data": (r'<data variable_id="[^"]*" variable_type[^>]*/>', ""),
    "an operator of another library": (
        r'type="Multiply" version="opset1"',
        'type="Multiply" version="extension"',
    ),
    "an operator that is not emitted": (r'type="Multiply"', 'type="If"'),
    "a constant beyond the file": (r'offset="4"', 'offset="99999999"'),
    "a constant of another size": (r'size="8"', 'size="4"'),
    "an edge to nowhere": (r'to-layer="5"', 'to-layer="5000"'),
    "a dimension that is no number": (r"<dim>8</dim>", "<dim>-8</dim>"),
    "an entity": (r"<net ", '<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]><net '),
    "two of a layer": (r'layer id="1"', 'layer id="0"'),
}


@pytest.mark.parametrize("change", XML.values(), ids=XML)
def test_a_forged_openvino_model_is_refused(copied: Callable[[str], Path], change: tuple[str, str]) -> None:
    folder = copied("openvino")
    edit(folder / "train.xml", *change)
    rehash(folder)
    with pytest.raises(ArtifactError, match=r"train\.xml is no model that this version compiles"):
        Trainer.load(folder, threads=1)


def onnx_external(model: Any) -> None:
    import onnx

    tensor = next(t for t in model.graph.initializer if t.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "../secret", "offset": "0", "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)


def onnx_domain(model: Any) -> None:
    model.graph.node[0].domain = "com.microsoft"


def onnx_operator(model: Any) -> None:
    model.graph.node[0].op_type = "SequenceMap"


def onnx_function(model: Any) -> None:
    model.functions.add(name="f", domain="d")


def onnx_size(model: Any) -> None:
    next(t for t in model.graph.initializer if t.raw_data).dims[:] = [1 << 30]


@pytest.mark.parametrize("change", [onnx_external, onnx_domain, onnx_operator, onnx_function, onnx_size])
def test_a_forged_onnx_model_is_refused(copied: Callable[[str], Path], change: Callable[[Any], None]) -> None:
    import onnx

    folder = copied("onnx")
    model = onnx.load(folder / "train.onnx")
    change(model)
    (folder / "train.onnx").write_bytes(model.SerializeToString())
    rehash(folder)
    with pytest.raises(ArtifactError, match=r"train\.onnx is no model that this version compiles"):
        Trainer.load(folder, threads=1)


GRAPH = {
    "an operator that reads by strides": ("aten._reshape_alias.default", [{"node": "N"}, [4096], [1]]),
    "strides beyond the memory": ("aten.as_strided.default", [{"node": "N"}, [4096], [1]]),
    "a library's own operator": ("aten.mkldnn_rnn_layer.default", [{"node": "N"}]),
    "a file of the system": ("aten.from_file.default", ["/etc/passwd"]),
    "another shape than it computes": ("aten.relu.default", [{"node": "N"}]),
    "a tensor of petabytes": ("aten.full.default", [[1 << 50], 1.0]),
}


@pytest.mark.parametrize(("op", "args"), GRAPH.values(), ids=GRAPH)
def test_a_forged_torch_graph_is_refused(copied: Callable[[str], Path], op: str, args: list[Any]) -> None:
    folder = copied("torch")
    path = folder / "train.graph.json"
    data = json.loads(path.read_text())
    first = next(i for i, n in enumerate(data["nodes"]) if "op" in n)
    name = data["nodes"][0]["name"]
    args = [{"node": name} if a == {"node": "N"} else a for a in args]
    val = {"shape": [4096] if "full" not in op else [1 << 50], "dtype": "float32"}
    forged = {"name": "forged", "op": op, "args": args, "val": val, "phase": "forward"}
    data["nodes"].insert(first, forged)
    path.write_text(json.dumps(data))
    rehash(folder)
    with pytest.raises(ArtifactError, match="is not a valid graph file"):
        Trainer.load(folder, threads=1)


@pytest.mark.slow
def test_a_damaged_file_never_ends_the_process(copied: Callable[[str], Path], target: str) -> None:
    """Bytes are overwritten at places of every file but the manifest, and hashed again."""
    folder = copied(target)
    names = sorted(p.name for p in folder.iterdir() if p.name != "manifest.json")
    code = """
import hashlib, json, random, sys
from pathlib import Path
import numpy as np
import pockgraph.runtime as r
folder, names = Path(sys.argv[1]), sys.argv[2:]
draw = random.Random(0)
whole = {n: (folder / n).read_bytes() for n in names}
manifest = json.loads((folder / "manifest.json").read_text())
batch = {"x": np.zeros((8, 12), "f4"), "y": np.zeros(8, "i8")}
for i in range(60):
    name = draw.choice(names)
    data = bytearray(whole[name])
    for _ in range(draw.choice((1, 1, 4))):
        at = draw.randrange(len(data)) if data else 0
        data[at:at + 1] = draw.choice((b"", b"0", b"9", bytes([draw.randrange(256)])))
    (folder / name).write_bytes(data)
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    try:
        with r.Trainer.load(folder, threads=1):
            pass
    except r.ArtifactError as e:
        assert "\\n" not in str(e), str(e)
    (folder / name).write_bytes(whole[name])
    data = whole[name]
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
print("survived")
"""
    env = {**os.environ, "PYTHONPATH": str(Path(pg.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]


def test_a_file_that_the_manifest_does_not_list_is_not_read(
    copied: Callable[[str], Path], target: str
) -> None:
    folder = copied(target)
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    name = {"openvino": "train.bin", "onnx": "train.onnx", "torch": "train.graph.json"}[target]
    del data["files"][name]
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=f"{name} is not listed"):
        Trainer.load(folder, threads=1)


def test_a_link_out_of_the_folder_is_refused(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied("onnx")
    (folder / "state.safetensors").rename(tmp_path / "elsewhere")
    (folder / "state.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"state\.safetensors cannot be read"):
        Trainer.load(folder, threads=1)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "state.safetensors", "train.onnx"])
def test_a_pipe_in_the_place_of_a_file_does_not_hang(copied: Callable[[str], Path], name: str) -> None:
    folder = copied("onnx")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ArtifactError, match=re.escape(name)):
        Trainer.load(folder, threads=1)


def test_a_pipe_in_the_place_of_a_checkpoint_or_a_plan(copied: Callable[[str], Path], tmp_path: Path) -> None:
    trainer = Trainer.load(copied("onnx"), threads=1)
    os.mkfifo(tmp_path / "pipe")
    for use in (trainer.load_checkpoint, trainer.save):
        with pytest.raises(ArtifactError, match="pipe"):
            use(tmp_path / "pipe")
    with pytest.raises(PlanError, match="pipe"):
        pg.Plan.load(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_json_that_is_nested_without_end(copied: Callable[[str], Path], name: str) -> None:
    folder = copied("onnx")
    text = (folder / name).read_text().rstrip().removesuffix("}")
    (folder / name).write_text(f'{text}, "deep": {"[" * 100_000}{"]" * 100_000}}}')
    if name != "manifest.json":
        rehash(folder)
    with pytest.raises(ArtifactError, match=re.escape(name)):
        Trainer.load(folder, threads=1)


def test_paths_that_are_no_text(copied: Callable[[str], Path]) -> None:
    trainer = Trainer.load(copied("onnx"), threads=1)
    for path in (os.fsdecode(b"/tmp/\xff\xfe"), "/tmp/a\0b"):
        for use in (Trainer.load, pg.Artifact.load, trainer.save, trainer.load_checkpoint, trainer.export):
            with pytest.raises(ArtifactError, match=r"UTF-8|null byte"):
                use(path)


def test_an_artefact_that_was_replaced_is_not_mixed_with_the_one_that_was_loaded(
    tmp_path: Path, target: str
) -> None:
    trainer = compiled(tmp_path / "out", target).trainer(threads=1)
    compiled(tmp_path / "out", target, net=tanh())
    with pytest.raises(ArtifactError, match="was replaced or damaged after it was loaded"):
        trainer.evaluate(DATA[:1])
    trainer.step(DATA[0])


# ---------------------------------------------------------------- the disk


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fsync)


def listed(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_full_disk_loses_nothing_and_leaves_nothing(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = compiled(tmp_path / "out", target)
    trainer = artifact.trainer(threads=1)
    trainer.step(DATA[0])
    trainer.save(tmp_path / "saved")
    artifact.plan.save(tmp_path / "plan.json")
    before = listed(tmp_path)
    full_disk(monkeypatch)
    with pytest.raises(ArtifactError, match=r"(?i)no space left"):
        trainer.save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match=r"(?i)no space left"):
        trainer.export(tmp_path / "exported")
    with pytest.raises(PlanError, match=r"(?i)no space left"):
        artifact.plan.save(tmp_path / "plan.json")
    with pytest.raises(ArtifactError, match=r"(?i)no space left"):
        compiled(tmp_path / "out", target)
    assert listed(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {"out", "saved", "plan.json"}


@pytest.mark.slow
def test_files_that_may_not_grow_are_refused_in_a_line(tmp_path: Path, target: str) -> None:
    """The native writers run into the system's limit on a file's size, as into the end of a disk."""
    code = """
import resource, signal, sys
sys.path[:0] = sys.argv[3:]
from test_field_files import compiled
import pockgraph as pg, pockgraph.errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import torch
net = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2].split(",")[1]),) * 2)
try:
    compiled(__import__("pathlib").Path(sys.argv[1]), sys.argv[2].split(",")[0], net)
except pg.errors.ArtifactError as e:
    print("REFUSED", str(e).count("\\n"))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(pg.__file__).parents[1])}
    here = Path(__file__).parent
    for limit in (1000, 5000):
        command = [sys.executable, "-c", code, tmp_path / "out", f"{target},{limit}", here, here.parent]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, timeout=120)
        assert done.stdout == "REFUSED 0\n", (limit, done.stdout, done.stderr[-1500:])
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_in_a_line(
    copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer.load(copied("onnx"), threads=1)

    def mkdir(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ArtifactError, match=r"(?i)read-only file system"):
        trainer.save(tmp_path / "saved")


def test_notes_that_a_kill_left_do_not_stop_a_compilation(tmp_path: Path) -> None:
    artifact = compiled(tmp_path / "out", "onnx")
    (artifact.path / ".last_checkpoint.ab12cd34").write_text("x")
    compiled(tmp_path / "out", "onnx")
    assert not (artifact.path / ".last_checkpoint.ab12cd34").exists()


def test_an_artefact_that_a_kill_left_aside_is_found(tmp_path: Path) -> None:
    artifact = compiled(tmp_path / "out", "onnx")
    staging = tmp_path / ".out.0123abcd.pockui-partial"
    staging.mkdir()
    artifact.path.rename(staging / "old")
    assert Trainer.load(tmp_path / "out", threads=1).step(DATA[0]).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_another_process_is_writing_is_not_swept(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, pockgraph.files as f\n"
        "with f.replacing(pathlib.Path(sys.argv[1])) as new:\n"
        "    new.write_text('theirs'); print('writing', flush=True); input()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(pg.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "theirs")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        files.write_atomically(tmp_path / "mine", b"mine")
        other.communicate("\n", timeout=60)
    assert listed(tmp_path) == {"mine": b"mine", "theirs": b"theirs"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        other.kill()
    assert len(list(tmp_path.iterdir())) == 3
    files.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "theirs"]


def test_a_checkpoint_that_is_not_finite_is_not_continued(tmp_path: Path) -> None:
    trainer = compiled(tmp_path / "out", "onnx").trainer(threads=1)
    state = {n: np.full_like(a, np.nan) for n, a in trainer._runner.read_state().items()}
    save_checkpoint(tmp_path / "saved", trainer.manifest, state, 3, 0)
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        trainer.load_checkpoint(tmp_path / "saved")


@pytest.mark.parametrize("claim", [(1 << 50,), (1 << 20, 1 << 20)])
def test_an_npz_that_claims_more_than_it_holds(
    tmp_path: Path, claim: tuple[int, ...], copied: Callable[[str], Path]
) -> None:
    import io
    import zipfile

    from pockgraph.errors import BatchError
    from pockgraph.runtime.command import Data

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": claim})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, header.getvalue() + b"\0" * 64)
    manifest = Trainer.load(copied("onnx"), threads=1).manifest
    with pytest.raises(BatchError, match="claims"):
        Data.load(tmp_path / "data.npz", manifest)
