"""A folder of images with a table `labels.csv`, decoded a batch at a time.

`data.json` says what the pixels become; nothing about them is guessed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ...errors import BatchError, reason, suggest
from ...files import open_regular
from ..artifact_files import file_sha256, require_inside
from .folder import INDEX, Index
from .image_labels import LABELS, Row, read_rows
from .source import Arrays, Data, Wanted

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA = "pockui.images/1"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # no format that is a program, or starts one
_MODES = {1: "L", 3: "RGB"}
_WORDS = {"L": "grey", "RGB": "RGB"}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ImageIndex(Index):
    """How images become entries of a batch.

    Attributes:
        image, label: the entries; by default the only one with the shape of images, and the only one with an
            integer for each sample.
        channels: whether a sample is `[channels, height, width]` ("first") or `[height, width, channels]`.
        mean, std: a value v from 0 to 255 becomes `(v / 255 - mean) / std`; one number, or one a channel.
            Neither is given where the entry holds uint8, which are the pixels themselves.
        resize: what is done to an image of another size: "stretch" it, or "crop" it to the largest part in
            its middle that has the batch's proportions, and scale that. None refuses it.
        classes: names that stand in the table instead of numbers; the first is 0.
    """

    schema_: Literal["pockui.images/1"] = Field(default=SCHEMA, alias="schema")
    image: str | None = None
    label: str | None = None
    channels: Literal["first", "last"] = "first"
    mean: tuple[Finite, ...] | None = None
    std: tuple[Positive, ...] | None = None
    resize: Literal["stretch", "crop"] | None = None
    classes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> ImageIndex:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        return self


class ImageFolder(Data):
    """A folder of images.

    Raises:
        BatchError: batches need other entries, it is not said what pixels become, a file is missing, or a
            label is none; Pillow is not installed.
    """

    def __init__(self, folder: Path, index: dict[str, Any], wanted: Wanted) -> None:
        self._folder, self._index = folder, ImageIndex.parse(folder, index)
        self._image, self._label = self._entries(wanted)
        spec = wanted.entries[self._image]
        height, width, channels = self._sizes(spec.shape)
        self._size, self._mode, self._task = (width, height), _MODES[channels], wanted.task
        self._dtype = np.dtype(spec.dtype)
        self._normalization = self._mean_and_std(channels)
        _require_pillow(folder)
        limits = [x for x in wanted.limits if x.entry == self._label and x.places is None]
        self._rows = read_rows(folder, self._label is not None, self._index.classes, limits)
        super().__init__(len(self._rows), {}, wanted.batch_size)

    def read(self, start: int, stop: int) -> Arrays:
        rows = self._rows[start:stop]
        found = {self._image: np.stack([self._sample(r) for r in rows])}
        if self._label is not None:
            found[self._label] = np.array([r.label for r in rows], np.int64)
        return found

    def digest(self) -> str:
        digest = hashlib.sha256()
        for name in (INDEX, LABELS, *(r.file for r in self._rows)):
            digest.update(bytes.fromhex(file_sha256(self._folder / name)))
        return digest.hexdigest()

    def _entries(self, wanted: Wanted) -> tuple[str, str | None]:
        """The entry of the images, and that of the labels where batches have one."""
        rows = {n: wanted.entries[n] for n in wanted.entries if n in wanted.rows}
        images = [n for n, s in rows.items() if len(s.shape) == 4 and self._sizes(s.shape)[2] in _MODES]
        image = self._chosen("image", self._index.image, images, wanted)
        labels = [n for n, s in rows.items() if len(s.shape) == 1 and s.dtype.startswith(("int", "uint"))]
        only_image = list(wanted.entries) == [image]
        label = None if only_image else self._chosen("label", self._index.label, labels, wanted)
        others = [n for n in wanted.entries if n not in (image, label)]
        if others:
            more = ", ".join(map(repr, others))
            raise BatchError(
                f"{self._folder} gives an image and a label, and a batch needs {more}, too. {wanted.holds} "
                "Write the data with `pockui data`."
            )
        return image, label

    def _chosen(self, what: str, named: str | None, fitting: list[str], wanted: Wanted) -> str:
        path = self._folder / INDEX
        if named is not None:
            if named not in fitting:
                raise BatchError(
                    f"{path} calls the {what} {named!r}, and no entry of that name can be one."
                    f"{suggest(named, fitting)} {wanted.holds}"
                )
            return named
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = " or ".join(map(repr, fitting))
            raise BatchError(f'{path} does not say which entry the {what} is: {names}. Add "{what}": "NAME".')
        kind = (
            f"images with 1 or 3 channels, channels {self._index.channels}"
            if what == "image"
            else "one integer for each sample"
        )
        raise BatchError(f"{self._folder} holds images, and no entry of a batch is of {kind}. {wanted.holds}")

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Height, width and channels of a batch's images."""
        _, a, b, c = shape
        return (b, c, a) if self._index.channels == "first" else (a, b, c)

    def _mean_and_std(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """As float32 that broadcast over `[height, width, channels]`; None for pixels as they are."""
        mean, std, path = self._index.mean, self._index.std, self._folder / INDEX
        if self._dtype == np.uint8:
            if mean is not None:
                raise BatchError(f"{path} gives a mean, and {self._image!r} is uint8: pixels as they are.")
            return None
        if self._dtype.kind != "f":
            raise BatchError(
                f"{self._folder} holds images, and {self._image!r} is {self._dtype}, which pixels are not. "
                "Write the data with `pockui data`."
            )
        if mean is None or std is None:
            raise BatchError(
                f"{path} does not say how the model was fed: values from 0 to 1, less a mean, divided by a "
                'standard deviation. Add "mean": [0.0], "std": [1.0] for values from 0 to 1.'
            )
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise BatchError(f"{path} gives {len(values)} numbers as {name}, for {channels} channels.")
            if max(values) > 1:
                raise BatchError(
                    f"{path} gives {max(values):g} as {name}, and pixels are values from 0 to 1 by then. "
                    "Divide what is meant for values from 0 to 255 by 255."
                )
        if not np.array(std, np.float32).all():
            raise BatchError(f"{path} gives a std that is 0 in float32. Give that of the model's training.")
        return np.array(mean, np.float32), np.array(std, np.float32)

    def _sample(self, row: Row) -> np.ndarray:
        pixels = self._pixels(row)
        if self._normalization is not None:
            mean, std = self._normalization
            pixels = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return pixels.transpose(2, 0, 1) if self._index.channels == "first" else pixels

    def _pixels(self, row: Row) -> np.ndarray:
        """uint8 `[height, width, channels]`."""
        from PIL import Image, UnidentifiedImageError

        path = self._folder / row.file
        try:
            require_inside(self._folder, path)
            with open_regular(path) as f, Image.open(f, formats=FORMATS) as image:
                self._require_fit(image, path, row)
                found = np.asarray(self._resized(image))
        except BatchError:
            raise
        except UnidentifiedImageError:
            kinds = ", ".join(FORMATS)
            raise BatchError(f"{path} ({row.place}) is no image of a kind that is read: {kinds}.") from None
        except Exception as e:  # decoders raise whatever a damaged file leads them to
            raise BatchError(
                f"{path} ({row.place}) cannot be decoded: {reason(e)}. Use another copy, or take the row out."
            ) from None
        return found.reshape(*found.shape[:2], -1)

    def _require_fit(self, image: Image, path: Path, row: Row) -> None:
        takes = f"and {self._image!r} of task {self._task!r} takes"
        if image.mode != self._mode:
            found = _WORDS.get(image.mode, f"of mode {image.mode}")
            raise BatchError(f"{path} ({row.place}) is {found}, {takes} {_WORDS[self._mode]}. Convert it.")
        if image.size != self._size and self._index.resize is None:
            found, needed = ("×".join(map(str, size)) for size in (image.size, self._size))
            raise BatchError(
                f"{path} ({row.place}) is {found} pixels, {takes} {needed}. Resize it, or add "
                f'"resize": "stretch" or "crop" to {INDEX}.'
            )

    def _resized(self, image: Image) -> Image:
        from PIL import Image as images
        from PIL import ImageOps

        if image.size == self._size:
            return image
        if self._index.resize == "crop":
            return ImageOps.fit(image, self._size, images.Resampling.BILINEAR)
        return image.resize(self._size, images.Resampling.BILINEAR)


def _require_pillow(folder: Path) -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise BatchError(
            f"{folder} holds images, which Pillow decodes, and it is not installed. Run: "
            "pip install 'pockui[images]'"
        ) from None
