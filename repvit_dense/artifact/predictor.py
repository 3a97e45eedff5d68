"""Image in, results in its own pixels out: an artifact without torch, mmcv, mmdet and mmseg.

    predict = Predictor('work_dirs/export/onnx')
    found = predict('street.jpg')
    found['boxes'], found['scores'], found['labels'], found['masks']

Whatever a graph of fixed size cannot do happens here: boxes go back to the image's own pixels, masks are pasted or
resized and cut, panoptic masks are merged.

Sources of the numbers: mmdet's FCNMaskHead (masks of boxes), RTMDetInsHead and MaskFormerFusionHead (masks of images),
whose results on the same tensors are the same up to rounding.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from repvit_dense.artifact import manifest, preprocess, runtimes
from repvit_dense.errors import InputError

Image = str | Path | np.ndarray


class Predictor:
    """An artifact, loaded once.

    Args:
        folder: of the artifact.
        threads: how many the runtime may use; None leaves that to it.

    Attributes:
        manifest: what the artifact is; `manifest.classes` names the labels.

    Raises:
        InputError: the artifact cannot be read, or its runtime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int | None = None):
        self.manifest = manifest.read(folder)
        self._run = runtimes.load(folder, self.manifest, threads)
        batch, _, *size = self.manifest.inputs['images']
        self._batch = batch if isinstance(batch, int) else 1  # on a CPU, one at a time is as fast and pads less
        self._size = tuple(size) if all(isinstance(side, int) for side in size) else None

    def __call__(self, images: Image | Sequence[Image]) -> dict | list[dict | InputError]:
        """Predict an image, or several.

        Args:
            images: a path, or `(H, W, 3)` BGR, `(H, W, 4)` BGRA or `(H, W)` grey in uint8 or uint16; or a list of them.

        Returns:
            for an image a dict, in its own pixels, by falling score:
              detection: `boxes (N, 4)` float32 as x1 y1 x2 y2, `scores (N,)` float32, `labels (N,)` int32;
              instance: the same and `masks (N, H, W)` bool;
              semantic: `seg (H, W)` int32, class indices;
              panoptic: `segments (H, W)` int32, the numbers of segments, 0 where there is none, and `segment_info`, per
              segment a dict with `number`, `label`, `is_thing`, `score`.
            For a list, a list of them; in the place of an image that cannot be used stands the InputError.

        Raises:
            InputError: the one image cannot be used.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images))
        (found,) = self.stream([images])
        if isinstance(found, InputError):
            raise found
        return found

    def stream(self, images: Iterable[Image]) -> Iterator[dict | InputError]:
        """As `__call__` with a list, but one after the other: no more images are in memory than a batch holds."""
        waiting = iter(images)
        while chunk := list(islice(waiting, self._batch)):
            pixels = [_attempt(read, image) for image in chunk]
            usable = [image for image in pixels if not isinstance(image, InputError)]
            found = iter(self._predict(usable) if usable else ())
            yield from (image if isinstance(image, InputError) else next(found) for image in pixels)

    def _predict(self, images: list[np.ndarray]) -> list[dict]:
        how = self.manifest.preprocess
        inputs, true_sizes = zip(*(preprocess.apply(image, how, self._size) for image in images), strict=True)
        batch_hw = tuple(max(part.shape[axis] for part in inputs) for axis in (1, 2))
        count = max(self._batch, len(images))  # a fixed batch is filled up with nothing
        batch = np.full((count, 3, *batch_hw), how['pad_value'], np.float32)
        for row, part in zip(batch, inputs, strict=False):
            row[:, : part.shape[1], : part.shape[2]] = part
        img_hw = np.array(true_sizes + (batch_hw,) * (count - len(images)), np.float32)
        found = self._run(batch, img_hw)
        return [
            self._finish({name: value[i] for name, value in found.items()}, image.shape[:2], batch_hw)
            for i, image in enumerate(images)
        ]

    def _finish(self, found: dict[str, np.ndarray], image_hw: tuple[int, int], batch_hw: tuple[int, int]) -> dict:
        """The result of one image from the outputs of its row."""
        steps = preprocess.geometry(image_hw, self.manifest.preprocess, self._size)
        task, options = self.manifest.task, self.manifest.postprocess
        if task == 'semantic':
            return {'seg': _stretch(found['seg'][: steps.resized[0], : steps.resized[1]], image_hw)}
        count = int(found['count'])
        found = {name: value[:count] for name, value in found.items() if name != 'count'}
        if task == 'panoptic':
            return _merge(found, options, len(self.manifest.classes), steps.resized, batch_hw, image_hw)
        scale = steps.resized[0] / image_hw[0], steps.resized[1] / image_hw[1]
        found['boxes'] = found['boxes'] / np.array([*scale[::-1]] * 2, np.float32)
        if self.manifest.mask_kind == 'roi':
            found['masks'] = paste(found['masks'], found['boxes'], image_hw, options['mask_thr'])
        elif self.manifest.mask_kind == 'image':
            canvas = _canvas(batch_hw, scale) if options.get('mask_canvas') else None
            enlarged = (_enlarge(mask, steps.resized, batch_hw, image_hw, canvas) for mask in found['masks'])
            found |= _instances(found, enlarged, image_hw, options)
        return {name: found[name] for name in ('boxes', 'scores', 'labels', 'masks') if name in found}


# --- reading ----------------------------------------------------------------------------------------------------------


def read(image: Image) -> np.ndarray:
    """The pixels of a file or of an array: `(H, W, 3)` BGR uint8.

    16 bits become 8, an alpha channel is dropped, EXIF orientation is applied: as OpenCV and so mmcv reads.

    Raises:
        InputError: not a file, not an image, cut short, or an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not isinstance(image, str | Path):
        raise InputError(f'an image must be a path or an array, got {type(image).__name__}')
    try:
        content = Path(image).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{image}: not an image that can be read ({reason})') from error
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:
        pixels = None
    # Some builds of OpenCV fill what is missing of a JPEG with grey: its end mark must follow its last scan.
    cut = content.startswith(b'\xff\xd8') and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda')
    if pixels is None or cut:
        raise InputError(f'{image}: not an image that can be read ({"cut short" if cut else "damaged, or no image"})')
    return pixels


def _from_array(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3, 4) and image.size
    if not fits:
        raise InputError(
            f'an image must be (H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey in uint8 or uint16, '
            f'got {tuple(image.shape)} {image.dtype}'
        )
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3])


def _attempt(function, image: Image):
    try:
        return function(image)
    except InputError as error:
        return error


# --- results ----------------------------------------------------------------------------------------------------------


def _stretch(seg: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """A class map `(h, w)` at another size: each class is resized as a mask, and the strongest wins.

    mmseg resizes the logits instead, which a class map no longer has. This comes nearer to it than taking the nearest
    pixel does: borders stay smooth.
    """
    if seg.shape == image_hw:
        return np.ascontiguousarray(seg)
    large, strongest = np.zeros(image_hw, np.int32), np.zeros(image_hw, np.float32)
    for label in np.unique(seg):
        share = cv2.resize((seg == label).astype(np.float32), image_hw[::-1], interpolation=cv2.INTER_LINEAR)
        large[share > strongest] = label
        np.maximum(share, strongest, out=strongest)
    return large


def paste(masks: np.ndarray, boxes: np.ndarray, image_hw: tuple[int, int], threshold: float) -> np.ndarray:
    """Masks that cover their boxes, put into the image.

    Bilinear sampling is separable: a mask becomes `rows @ mask @ columns`, with two weights in each row of either.

    Args:
        masks: `(N, h, w)` probabilities.
        boxes: `(N, 4)` as x1 y1 x2 y2 in pixels of the image.
        image_hw: height and width in pixels.
        threshold: from which probability on a pixel belongs to the object.

    Returns:
        `(N, H, W)` bool.
    """
    height, width = image_hw
    pasted = np.zeros((len(masks), height, width), bool)
    for mask, box, target in zip(masks, boxes, pasted, strict=True):
        if not np.isfinite(box).all():  # half precision may overflow
            continue
        # One pixel more than the box, as mmdet does; the mask fades out beyond it.
        left, top = (max(0, math.floor(side) - 1) for side in box[:2])
        right, bottom = (min(end, math.ceil(side) + 1) for side, end in zip(box[2:], (width, height), strict=True))
        if right > left and bottom > top:
            rows = _sampling(top, bottom, box[1], box[3], mask.shape[0])
            columns = _sampling(left, right, box[0], box[2], mask.shape[1])
            target[top:bottom, left:right] = rows @ mask @ columns.T >= threshold
    return pasted


def _sampling(start: int, stop: int, low: np.float32, high: np.float32, length: int) -> np.ndarray:
    """Weights `(stop - start, length)` that sample a mask stretched from `low` to `high` at the centres of pixels.

    Beyond its outermost values a mask is 0; in a box without width, every pixel takes the middle of the mask.
    """
    centres = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        places = (centres - low) / (high - low) * 2 - 1  # -1 to 1 across the box
    places[~np.isfinite(places)] = 0
    places = ((places + 1) * length - 1) / 2  # of the mask's values, the first at 0
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(length, dtype=np.float32)))


def bounds(masks: np.ndarray) -> np.ndarray:
    """Boxes `(N, 4)` float32 around masks `(N, H, W)` bool, x1 y1 x2 y2 with the last pixel inside; 0 if empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _canvas(batch_hw: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int]:
    """What the whole batch measures in pixels of the original image, rounded up; `scale` in height and width.

    A factor, not a quotient: the rounding errors are then mmdet's, and they may decide about a pixel.
    """
    return tuple(math.ceil(side * (1 / factor)) for side, factor in zip(batch_hw, scale, strict=True))


def _enlarge(
    mask: np.ndarray,
    true_hw: tuple[int, int],
    batch_hw: tuple[int, int],
    image_hw: tuple[int, int],
    canvas: tuple[int, int] | None = None,
) -> np.ndarray:
    """A mask `(h, w)` of the padded image, in logits, at the original size, bilinear, pixel centres aligned.

    Two ways, as the models of mmdet differ: cut to what is image (`true_hw`) and stretch that; or stretch the whole to
    `canvas` and cut that.
    """
    mask = cv2.resize(mask, batch_hw[::-1], interpolation=cv2.INTER_LINEAR)
    if canvas:
        return cv2.resize(mask, canvas[::-1], interpolation=cv2.INTER_LINEAR)[: image_hw[0], : image_hw[1]]
    mask = mask[: true_hw[0], : true_hw[1]]
    return mask if true_hw == image_hw else cv2.resize(mask, image_hw[::-1], interpolation=cv2.INTER_LINEAR)


def _instances(
    found: dict[str, np.ndarray], logits: Iterable[np.ndarray], image_hw: tuple[int, int], options: dict
) -> dict[str, np.ndarray]:
    """Objects whose masks cover the image.

    Args:
        found: what the graph gives for them.
        logits: their masks `(H, W)` at the original size.
        image_hw: height and width in pixels.
        options: `mask_thr`, a probability; `boxes_from_masks`: boxes are taken around the masks; `scores_from_masks`: a
            score is that of the class times the mean probability inside the mask (Mask2Former, for both).

    Returns:
        the arrays that changed; `masks (N, H, W)` bool. By falling score.
    """
    above, count = math.log(options['mask_thr'] / (1 - options['mask_thr'])), len(found['scores'])
    masks, shares = np.zeros((count, *image_hw), bool), np.ones(count, np.float32)
    for index, values in enumerate(logits):
        np.greater(values, above, out=masks[index])
        if options.get('scores_from_masks'):
            inside = values[masks[index]]
            shares[index] = (1 / (1 + np.exp(-inside))).sum() / (inside.size + 1e-6)
    changed = found | {'masks': masks, 'scores': found['scores'] * shares}
    if options.get('boxes_from_masks'):
        changed['boxes'] = bounds(masks)
    if options.get('scores_from_masks'):
        order = np.argsort(-changed['scores'], kind='stable')
        changed = {name: value[order] for name, value in changed.items()}
    return changed


def _merge(
    found: dict[str, np.ndarray], options: dict, num_classes: int, true_hw: tuple, batch_hw: tuple, image_hw: tuple
) -> dict:
    """Queries to segments, as mmdet's MaskFormerFusionHead: every pixel goes to the query whose score times mask is
    largest; a query that loses too much of its mask is dropped; stuff of one class is one segment.
    """
    keep = (found['scores'] > options['object_mask_thr']) & (found['labels'] < num_classes)
    scores, labels = found['scores'][keep], found['labels'][keep]
    best, owner = np.full(image_hw, -1, np.float32), np.zeros(image_hw, np.int32)
    inside = np.zeros(image_hw, bool)  # whether the owner's own mask says so
    whole = np.zeros(len(scores), int)  # pixels of each mask, other queries aside
    for index, (score, mask) in enumerate(zip(scores, found['masks'][keep], strict=True)):
        mask = 1 / (1 + np.exp(-_enlarge(mask, true_hw, batch_hw, image_hw)))
        own = mask >= 0.5
        whole[index] = own.sum()
        wins = score * mask > best
        best[wins], owner[wins], inside[wins] = (score * mask)[wins], index, own[wins]
    won = np.bincount(owner.ravel(), minlength=len(scores))[: len(scores)]
    stays = (won > 0) & (whole > 0) & (won / np.maximum(whole, 1) >= options['iou_thr'])
    numbers, info = _number(scores, labels, stays, int(options['num_things']))
    segments = numbers[owner] if len(scores) else np.zeros(image_hw, np.int32)
    if options['filter_low_score']:
        segments[~inside] = 0
    present = np.unique(segments)
    return {'segments': segments, 'segment_info': [part for part in info if part['number'] in present]}


def _number(
    scores: np.ndarray, labels: np.ndarray, stays: np.ndarray, num_things: int
) -> tuple[np.ndarray, list[dict]]:
    """Per query the number of its segment, 0 for none; and the segments."""
    numbers, info, stuff = np.zeros(len(scores), np.int32), [], {}
    for index in np.flatnonzero(stays):
        label, is_thing = int(labels[index]), bool(labels[index] < num_things)
        if is_thing or label not in stuff:
            stuff[label] = len(info) + 1
            info.append({'number': stuff[label], 'label': label, 'is_thing': is_thing, 'score': float(scores[index])})
        numbers[index] = stuff[label]
    return numbers, info
