"""Users' files are damaged, forged, pipes or links: what a file claims is not believed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_files import DATA, compiled, rehash, tanh

import pockgraph as pg
from pockgraph.errors import ArtifactError, PlanError
from pockgraph.runtime import Trainer


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
def test_a_forged_openvino_model_is_refused(
    artefact_copy: Callable[[str], Path], change: tuple[str, str]
) -> None:
    folder = artefact_copy("openvino")
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
def test_a_forged_onnx_model_is_refused(
    artefact_copy: Callable[[str], Path], change: Callable[[Any], None]
) -> None:
    import onnx

    folder = artefact_copy("onnx")
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
def test_a_forged_torch_graph_is_refused(
    artefact_copy: Callable[[str], Path], op: str, args: list[Any]
) -> None:
    folder = artefact_copy("torch")
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
def test_a_damaged_file_never_ends_the_process(artefact_copy: Callable[[str], Path], target: str) -> None:
    """Bytes are overwritten at places of every file but the manifest, and hashed again."""
    folder = artefact_copy(target)
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
    artefact_copy: Callable[[str], Path], target: str
) -> None:
    folder = artefact_copy(target)
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    name = {"openvino": "train.bin", "onnx": "train.onnx", "torch": "train.graph.json"}[target]
    del data["files"][name]
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=f"{name} is not listed"):
        Trainer.load(folder, threads=1)


def test_a_link_out_of_the_folder_is_refused(artefact_copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = artefact_copy("onnx")
    (folder / "state.safetensors").rename(tmp_path / "elsewhere")
    (folder / "state.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"state\.safetensors cannot be read"):
        Trainer.load(folder, threads=1)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "state.safetensors", "train.onnx"])
def test_a_pipe_in_the_place_of_a_file_does_not_hang(artefact_copy: Callable[[str], Path], name: str) -> None:
    folder = artefact_copy("onnx")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ArtifactError, match=re.escape(name)):
        Trainer.load(folder, threads=1)


def test_a_pipe_in_the_place_of_a_checkpoint_or_a_plan(
    artefact_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    trainer = Trainer.load(artefact_copy("onnx"), threads=1)
    os.mkfifo(tmp_path / "pipe")
    for use in (trainer.load_checkpoint, trainer.save):
        with pytest.raises(ArtifactError, match="pipe"):
            use(tmp_path / "pipe")
    with pytest.raises(PlanError, match="pipe"):
        pg.Plan.load(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_json_that_is_nested_without_end(artefact_copy: Callable[[str], Path], name: str) -> None:
    folder = artefact_copy("onnx")
    text = (folder / name).read_text().rstrip().removesuffix("}")
    (folder / name).write_text(f'{text}, "deep": {"[" * 100_000}{"]" * 100_000}}}')
    if name != "manifest.json":
        rehash(folder)
    with pytest.raises(ArtifactError, match=re.escape(name)):
        Trainer.load(folder, threads=1)


def test_paths_that_are_no_text(artefact_copy: Callable[[str], Path]) -> None:
    trainer = Trainer.load(artefact_copy("onnx"), threads=1)
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


@pytest.mark.parametrize("claim", [(1 << 50,), (1 << 20, 1 << 20)])
def test_an_npz_that_claims_more_than_it_holds(
    tmp_path: Path, claim: tuple[int, ...], artefact_copy: Callable[[str], Path]
) -> None:
    import io
    import zipfile

    from pockgraph.errors import BatchError
    from pockgraph.runtime.data.opening import training_data

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": claim})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, header.getvalue() + b"\0" * 64)
    manifest = Trainer.load(artefact_copy("onnx"), threads=1).manifest
    with pytest.raises(BatchError, match="claims"):
        training_data(tmp_path / "data.npz", manifest)
