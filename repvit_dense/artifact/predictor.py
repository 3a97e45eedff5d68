"""Predict images with an artifact; torch, mmcv, mmdet and mmseg are not needed.

model = Predictor('exported/onnx')
result = model('street.jpg')
result.boxes, result.scores, result.labels, result.masks
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from repvit_dense.artifact import manifest, postprocess, preprocess, runtimes, sources
from repvit_dense.artifact.download import is_url
from repvit_dense.artifact.images import Frame, ImageInput, name_of, read_input, warn
from repvit_dense.artifact.result import Result
from repvit_dense.artifact.selection import Selection
from repvit_dense.artifact.speed import Clock
from repvit_dense.errors import InputError
from repvit_dense.image_header import MAX_PIXELS


class ImageModel:
    """A model that maps images to results; the base of artifacts and of loaded checkpoints.

    Attributes:
        names: class names, by label.
        palette: an RGB colour per class, 0 to 255, or None.
        title: short name for pages and messages.
        task: 'detection', 'instance', 'panoptic' or 'semantic'.
        batch_size: images that one call of the network takes.
        selection: the objects that results keep.
        annotations: annotation files in COCO's format that may have ids of images and categories.
    """

    names: list[str]
    palette: list | None
    title: str
    task: str = 'detection'
    batch_size = 1
    selection = Selection()

    @property
    def annotations(self) -> list[Path]:
        """An artifact names no data."""
        return []

    @cached_property
    def clock(self) -> Clock:
        """The time of the parts of all predictions so far."""
        return Clock()

    @overload
    def __call__(self, images: ImageInput, max_pixels: int = ...) -> Result: ...
    @overload
    def __call__(self, images: Sequence[ImageInput], max_pixels: int = ...) -> list[Result | InputError]: ...
    def __call__(self, images: Any, max_pixels: int = MAX_PIXELS) -> Any:
        """Predict one image, or a list of images.

        Args:
            images: a path; an address (`https://...`); the bytes of a file; an array `(H, W, 3)` BGR, `(H, W, 4)`
                BGRA or `(H, W)` grey in uint8 or uint16; a PIL image; or a list of these.
            max_pixels: an image file with more pixels is refused before it is decoded.

        Returns:
            a `Result`; for a list, a list of them with the `InputError` in place of every image that failed.

        Raises:
            InputError: the single image cannot be used, or the model fails with every image.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images, max_pixels))
        (result,) = self.stream([images], max_pixels)
        if isinstance(result, InputError):
            raise result
        return result

    def stream(
        self, images: str | Path | Iterable[ImageInput | InputError], max_pixels: int = MAX_PIXELS
    ) -> Iterator[Result | InputError]:
        """Predict images one batch at a time; memory does not grow with their number.

        Args:
            images: any iterable of what `__call__` takes; or the name of a folder, a pattern, a video, a stream or a
                camera, see `repvit_dense.artifact.sources.find`.
            max_pixels: as in `__call__`.

        Yields:
            a `Result` per image, or the `InputError` of one that cannot be read or predicted, whatever the reason.

        Raises:
            InputError: the model fails with every image.
        """
        if isinstance(images, str | Path):
            images = (image for _, image in sources.images(sources.find([images]), max_pixels))
        waiting = iter(images)
        while True:
            with self.clock('pre-processing'):
                chunk = list(islice(waiting, self.batch_size))
                pixels = [_read_or_error(image, max_pixels) for image in chunk]
            if not chunk:
                return
            predictions = iter(self._predict_each([image for image in pixels if isinstance(image, np.ndarray)]))
            for source, image in zip(chunk, pixels, strict=True):
                if isinstance(image, InputError):
                    yield image
                    continue
                prediction = next(predictions)
                if isinstance(prediction, Exception):
                    yield InputError(f'{name_of(source)}: cannot be predicted ({_describe(prediction)})')
                    continue
                with self.clock('post-processing'):
                    fields = self.selection.apply(_drop_overflow(prediction, name_of(source)), len(self.names))
                    result = Result(image, self.names, self.palette, **_origin(source), **fields)
                yield result

    def _predict_each(self, images: list[np.ndarray]) -> list[dict[str, Any] | Exception]:
        """Return the arrays of every image as `_predict` does, or its error.

        Raises:
            InputError: the model fails with a plain grey image too.
        """
        try:
            return [*self._predict(images)] if images else []
        except Exception as error:
            if len(images) > 1:
                return [outcome for image in images for outcome in self._predict_each([image])]
            failure = error
        try:
            self._predict([np.full((64, 64, 3), 128, np.uint8)])
        except Exception as error:
            raise InputError(f'{self.title}: the model fails with every image ({_describe(error)})') from error
        return [failure]

    def export(self, *formats: str, **settings: Any) -> Any:
        """Export the model as artifacts; a checkpoint can, see `repvit_dense.commands.trained_model.Model.export`.

        Raises:
            InputError: this model is an artifact.
        """
        raise InputError(f'{self.title}: an artifact cannot be exported again; load the checkpoint it was made from')

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        license: str | None = None,
        message: str | None = None,
    ) -> str:
        """Upload the model with its card to the Hugging Face hub, in one commit.

        An artifact is uploaded as it is, a checkpoint as `model.safetensors`.

        Args:
            repo: 'USER/NAME'; it is created if necessary.
            private: create a private repository.
            license: SPDX name of the licence that you publish the model under; None for the recorded one.
            message: of the commit.

        Returns:
            the address of this version, `hf://USER/NAME@COMMIT`.

        Raises:
            InputError: there is no access token, or the hub refuses; the repository is as before.
        """
        return self._push(repo, private, license, message)

    def _push(self, repo: str, private: bool, licence: str | None, message: str | None) -> str:
        raise NotImplementedError

    def _predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        """Return the arrays of a `Result` for every image `(H, W, 3)` BGR uint8."""
        raise NotImplementedError


def _origin(source: Any) -> dict[str, Any]:
    """Return the fields of a `Result` that say which image or frame it belongs to."""
    if isinstance(source, Frame):
        return {'path': Path(source.video), 'frame': source.number, 'seconds': source.seconds}
    return {'path': Path(source)} if isinstance(source, str | os.PathLike) and not is_url(source) else {}


def _read_or_error(image: ImageInput | InputError, max_pixels: int) -> np.ndarray | InputError:
    if isinstance(image, InputError):
        return image
    try:
        return read_input(image, max_pixels)
    except InputError as error:
        return error
    except Exception as error:
        return InputError(f'{name_of(image)}: cannot be read ({_describe(error)})')


def _describe(error: Exception) -> str:
    """Return the kind of an error and its message in one line."""
    return ' '.join(f'{type(error).__name__}: {error}'.split()).removesuffix(':')


def _drop_overflow(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Leave objects out whose numbers are infinite or NaN, as half precision may produce, and say so."""
    if 'boxes' not in fields:
        return fields
    finite = np.isfinite(fields['boxes']).all(1) & np.isfinite(fields['scores'])
    if finite.all():
        return fields
    warn(f'{name}: {(~finite).sum()} of {len(finite)} objects are left out, their boxes or scores are not finite')
    return {key: values[finite] for key, values in fields.items()}


class Predictor(ImageModel):
    """An artifact, loaded once.

    Args:
        folder: folder of the artifact.
        threads: CPU threads of the runtime; None lets the runtime decide.
        size: width and height of the images in pixels, or both as one number; None for that of the export.

    Attributes:
        folder: folder of the artifact.
        manifest: description of the artifact.

    Raises:
        InputError: the artifact cannot be read, its runtime is not installed, or its input has another, fixed size.
    """

    def __init__(self, folder: str | Path, threads: int | None = None, size: int | tuple[int, int] | None = None):
        self.folder = Path(folder)
        self.manifest = manifest.read(folder)
        self.names, self.palette = self.manifest.classes, self.manifest.palette
        self.title = self.manifest.config or self.folder.name
        self.task = self.manifest.task
        self._run = runtimes.load(folder, self.manifest, threads)
        batch, _, *sides = self.manifest.inputs['images']
        # If the batch is open, one image at a time is as fast on a CPU and needs less padding.
        self.batch_size = batch if isinstance(batch, int) else 1
        self._size = (sides[0], sides[1]) if isinstance(sides[0], int) and isinstance(sides[1], int) else None
        if size is not None:
            self._set_size((size, size) if isinstance(size, int) else size)

    def _push(self, repo: str, private: bool, licence: str | None, message: str | None) -> str:
        from repvit_dense.artifact import hub  # only a push needs it

        return hub.push_artifact(self.folder, repo, private, licence, message)

    def __repr__(self) -> str:
        return f'Predictor({str(self.folder)!r}: {self.manifest.task}, {len(self.names)} classes)'

    def _set_size(self, new: tuple[int, int]) -> None:
        recipe = self.manifest.preprocess
        if self._size:
            height, width = self._size
            if new != (width, height):
                raise InputError(
                    f'--size {new[0]}x{new[1]}: this artifact has a fixed input of {width}x{height} pixels; export the '
                    'model with --dynamic size, or with this --size'
                )
            return
        scale: list[int] = list(new)
        if self.task == 'semantic' and recipe['scale'] and recipe['keep_ratio']:  # the size is that of crops
            scale = [max(1, round(side * min(new) / min(recipe['scale']))) for side in recipe['scale']]
        changes: dict[str, Any] = {'scale': scale, 'keep_ratio': recipe['keep_ratio'] or not recipe['scale']}
        if recipe['pad_to']:
            changes['pad_to'] = list(new)
        self.manifest = dataclasses.replace(self.manifest, preprocess=recipe | changes)

    def _predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        recipe = self.manifest.preprocess
        with self.clock('pre-processing'):
            inputs, true_sizes = zip(*(preprocess.apply(image, recipe, self._size) for image in images), strict=True)
            batch_hw = max(part.shape[1] for part in inputs), max(part.shape[2] for part in inputs)
            count = max(self.batch_size, len(images))  # a fixed batch is filled up with padding
            batch = np.full((count, 3, *batch_hw), recipe['pad_value'], np.float32)
            for row, part in zip(batch, inputs, strict=False):
                row[:, : part.shape[1], : part.shape[2]] = part
            img_hw = np.array(true_sizes + (batch_hw,) * (count - len(images)), np.float32)
        with self.clock('inference'):
            outputs = self._run(batch, img_hw)
        with self.clock('post-processing'):
            return [
                self._finish({name: value[i] for name, value in outputs.items()}, image.shape[:2], batch_hw)
                for i, image in enumerate(images)
            ]

    def _finish(self, outputs: dict[str, np.ndarray], image_hw: tuple, batch_hw: tuple[int, int]) -> dict[str, Any]:
        """Return the result of one image from its row of the outputs."""
        steps = preprocess.geometry(image_hw, self.manifest.preprocess, self._size)
        task, options = self.manifest.task, self.manifest.postprocess
        count = int(outputs['count']) if 'count' in outputs else 0
        postprocess.check_values(outputs, count, len(self.names))
        if task == 'semantic':
            unpadded = outputs['seg'][: steps.resized[0], : steps.resized[1]]
            return {'seg': postprocess.resize_class_map(unpadded, image_hw)}
        outputs = {name: value[:count] for name, value in outputs.items() if name != 'count'}
        if task == 'panoptic':
            return postprocess.merge_queries(outputs, options, len(self.names), steps.resized, batch_hw, image_hw)
        rows = ~(outputs['scores'] < self.selection.score)  # without masks for the others; NaN is reported later
        outputs = {name: value[rows] for name, value in outputs.items()}
        scale = steps.resized[0] / image_hw[0], steps.resized[1] / image_hw[1]
        outputs['boxes'] = outputs['boxes'] / np.array([*scale[::-1]] * 2, np.float32)
        if self.manifest.mask_kind == 'roi':
            outputs['masks'] = postprocess.paste_masks(
                outputs['masks'], outputs['boxes'], image_hw, options['mask_thr']
            )
        elif self.manifest.mask_kind == 'image':
            canvas = postprocess.canvas_size(batch_hw, scale) if options.get('mask_canvas') else None
            logits = (
                postprocess.resize_mask(mask, steps.resized, batch_hw, image_hw, canvas) for mask in outputs['masks']
            )
            outputs = postprocess.finish_instances(outputs, logits, image_hw, options)
        return {name: outputs[name] for name in ('boxes', 'scores', 'labels', 'masks') if name in outputs}
