"""`pockui export`: an artefact for a place without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pockgraph.errors import PockError

from ..info.format import size
from .output import JsonFlag, out, print_json, styled

app = typer.Typer(no_args_is_help=True, help="Bring an artefact to a place without Python.")


@app.callback()
def _export() -> None:
    """Bring an artefact to a place without Python."""


@app.command("web")
def web(
    artifact: Annotated[Path, typer.Argument(help="The folder that `pockui compile --target onnx` wrote.")],
    out_folder: Annotated[Path, typer.Option("--out", help="The site's folder; a site there is replaced.")],
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME,…", help="What the classes are called; from 0 unless given."),
    ] = None,
    subtract: Annotated[
        str,
        typer.Option(metavar="X[,X,X]", help="Taken from a pixel, 0 to 255; for each channel or for all."),
    ] = "0",
    divide: Annotated[str, typer.Option(metavar="X[,X,X]", help="What a pixel is divided by then.")] = "255",
    drawn_px: Annotated[
        int | None,
        typer.Option(min=4, max=1024, help="Side in which a drawing is sampled before it is enlarged."),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="An npz file of `pockui data`: every step sees some of its samples, too."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="The npm package onnxruntime-web; node_modules here or above unless given."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a site that trains an artefact in a browser: draw, correct it, watch it learn.

    Any static server serves it, on https or on localhost; after the first visit it works offline. Nothing
    leaves the browser.
    """
    from ..web.site import Drawings, write_site

    drawings = Drawings(
        labels=tuple(name.strip() for name in labels.split(",")) if labels else (),
        subtract=_numbers("--subtract", subtract),
        divide=_numbers("--divide", divide),
        drawn_px=drawn_px,
        examples=examples,
    )
    made = write_site(artifact, out_folder, drawings, runtime)
    if as_json:
        print_json(
            {"site": str(made.folder), "files": made.files, "bytes": made.bytes,
             "model_bytes": made.model_bytes, "runtime_bytes": made.runtime_bytes}
        )  # fmt: skip
        return
    out().print(
        styled(
            "Wrote ", (str(made.folder), "bold"),
            f": {made.files} files, {size(made.bytes)}, of them {size(made.model_bytes)} of the artefact and "
            f"{size(made.runtime_bytes)} of ONNX Runtime.",
        )
    )  # fmt: skip
    out().print(f"Serve it, for instance with: python -m http.server -b 127.0.0.1 -d {made.folder}")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PockError(
            f"{option} {text!r}: give one number, or one for each channel as in 0.5,0.5,0.5."
        ) from None
