"""`pockui export web`: what is written, what is refused, and the page in a real browser."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import CLASSES, SIDE, compiled, drawings
from headless import violations
from web_artifact import required_runtime

import pockgraph as pg
from pockgraph.errors import ArtifactError, PockError
from pockgraph.runtime import Trainer
from pockui.web.site import EXAMPLES, RUNTIME_FILES, Drawings, write_site

PATIENCE_MS = 60_000
OFFER = "Draw on the dark square"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("web") / "out", pg.SGD(lr=0.05, momentum=0.9))


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """Files called like the runtime's."""
    place = tmp_path / "onnxruntime-web" / "dist"
    place.mkdir(parents=True)
    for name in RUNTIME_FILES:
        (place / name).write_text(name)
    return place.parent


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **{n: np.concatenate([b[n] for b in drawings()]) for n in ("x", "y")})
    return path


def test_a_site_holds_all_that_it_needs_and_names_it(
    artifact: Path, runtime: Path, examples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    made = write_site(artifact, out, Drawings(subtract=(127.0,), examples=examples), runtime)
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    worker = (out / "service_worker.js").read_text()
    kept = json.loads(next(x for x in worker.splitlines() if x.startswith("const FILES"))[14:-1])
    assert set(kept) == files - {"service_worker.js"} | {"./"}
    assert made.files == len(files)
    assert made.bytes == sum((out / f).stat().st_size for f in files)
    config = json.loads((out / "page.json").read_text())
    assert config["labels"] == [str(i) for i in range(CLASSES)]
    images = np.frombuffer((out / EXAMPLES).read_bytes(), "<f4").reshape(-1, SIDE * SIDE)
    assert len(images) == len(config["examples"])
    x, y = (np.concatenate([b[n] for b in drawings()]) for n in ("x", "y"))
    for image, label in zip(images, config["examples"]):
        assert y[(x.reshape(len(x), -1) == image).all(1)].tolist() == [label]


def test_a_site_is_replaced_and_its_worker_tells_the_two_apart(
    artifact: Path, runtime: Path, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    workers = []
    for labels in (("a", "b", "c", "d", "e"), ()):
        write_site(artifact, out, Drawings(labels=labels), runtime)
        workers.append((out / "service_worker.js").read_text())
    assert workers[0] != workers[1]
    write_site(artifact, out, Drawings(), runtime)
    assert (out / "service_worker.js").read_text() == workers[1]


def test_what_is_no_site_is_not_replaced(artifact: Path, runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(PockError, match="holds something else than a site"):
        write_site(artifact, tmp_path / "mine", None, runtime)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("drawings", "said"),
    [
        (Drawings(labels=("a", "b")), "--labels names 2 classes, and the artefact has 5"),
        (Drawings(subtract=(1.0, 2.0)), "--subtract has 2 numbers, and an image has 1 channels"),
        (Drawings(divide=(0.0,)), "--divide is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    artifact: Path, runtime: Path, tmp_path: Path, drawings: Drawings, said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        write_site(artifact, tmp_path / "site", drawings, runtime)
    assert not (tmp_path / "site").exists()


def test_an_artefact_that_no_drawing_can_train_is_refused(runtime: Path, tmp_path: Path) -> None:
    silent = compiled(tmp_path / "silent", pg.SGD(lr=0.1), predicts=False)
    with pytest.raises(
        ArtifactError, match="shows a score for each class, and task 'drawings' predicts none"
    ):
        write_site(silent, tmp_path / "site", None, runtime)
    manifest = json.loads((silent / "manifest.json").read_text())
    (silent / "manifest.json").write_text(json.dumps(manifest | {"target": "openvino"}))
    with pytest.raises(ArtifactError, match="was compiled for openvino, and a browser runs ONNX"):
        write_site(silent, tmp_path / "site", None, runtime)


def test_where_the_runtime_comes_from_is_said(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PockError, match="Run `npm install onnxruntime-web`, or pass the package's folder"):
        write_site(artifact, tmp_path / "site")
    with pytest.raises(PockError, match=f"There is no onnxruntime-web in {tmp_path}"):
        write_site(artifact, tmp_path / "site", None, tmp_path)


# ---------------------------------------------------------------- in a browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(artifact: Path, examples: Path, tmp_path: Path) -> Iterator[Any]:
    folder = tmp_path / "site"
    write_site(artifact, folder, Drawings(examples=examples), required_runtime())
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def page(chromium) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, accept_downloads=True)
    made = context.new_page()
    made.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    made.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda e: errors.append(str(e)))
    yield made
    context.close()
    assert errors == []


def _draw(page: Any) -> None:
    box = page.locator("#pad").bounding_box()
    places = [
        (box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in ((0.3, 0.3), (0.7, 0.6))
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


@pytest.mark.browser
def test_a_drawing_is_predicted_corrected_and_learnt_and_all_is_kept(
    served: Any, page: Any, artifact: Path, tmp_path: Path
) -> None:
    page.goto(f"http://127.0.0.1:{served.server_port}/")
    page.get_by_text(OFFER).wait_for()
    assert violations(page) == []
    page.locator("#classes").get_by_text("3").click()
    page.get_by_text("Draw something first.").wait_for()
    _draw(page)
    page.get_by_text("Predicted in").wait_for()
    for _ in range(6):
        page.locator("#classes").get_by_text("3").click()
        page.wait_for_function("!document.getElementById('controls').disabled")
    assert page.locator("#answer").inner_text() == "3"
    page.get_by_text("30 steps on 6 drawings").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save checkpoint").click()
    checkpoint = tmp_path / "browser.ckpt"
    saved.value.save_as(checkpoint)
    trainer = Trainer.load(artifact)
    trainer.load_checkpoint(checkpoint)
    assert trainer.steps == 30

    page.wait_for_function("navigator.serviceWorker.ready.then((r) => r.active?.state === 'activated')")
    served.shutdown()
    served.socket.close()
    page.reload()  # without a server
    page.get_by_text("30 steps on 6 drawings").wait_for()
    page.get_by_text(OFFER).wait_for()
    assert page.evaluate("crossOriginIsolated")
    _draw(page)
    page.get_by_text("Predicted in").wait_for()
    assert page.locator("#answer").inner_text() == "3"
    page.get_by_role("button", name="Forget all").click()
    page.get_by_text("As it was compiled.").wait_for()
    page.locator("#restore").set_input_files(checkpoint)
    page.get_by_text("Loaded: 30 steps.").wait_for()
