"""The prediction for one image, as arrays, a picture, COCO entries or supervision detections."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repvit_dense.data.reading import run_lengths
from repvit_dense.errors import InputError, printable
from repvit_dense.files import encode_image, is_folder, replacing

if TYPE_CHECKING:
    import supervision

SCORE = 0.3  # threshold of pictures and JSON
ARRAYS = ('boxes', 'scores', 'labels', 'masks', 'seg', 'segments', 'segment_info')


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The prediction for one image, in pixels of that image, sorted by falling score.

    Fields that the task does not have are None: detection has `boxes`, `scores` and `labels`; instance segmentation
    also `masks`; semantic segmentation `seg`; panoptic segmentation `segments` and `segment_info`.

    Attributes:
        image: `(H, W, 3)` BGR uint8.
        names: class names, by label.
        palette: an RGB colour per class, 0 to 255, or None.
        path: file of the image or video; None if it came from memory or the web.
        boxes: `(N, 4)` float32, x1 y1 x2 y2 in pixels.
        scores: `(N,)` float32, 0 to 1.
        labels: `(N,)` integer, indices into `names`.
        masks: `(N, H, W)` bool.
        seg: `(H, W)` integer class indices.
        segments: `(H, W)` integer segment numbers, 0 for none.
        segment_info: a dict per segment with `number`, `label`, `is_thing` and, from an artifact, `score`.
        frame: number of the frame in its video, from 0; else None.
        seconds: time of the frame in its video; else None.
    """

    image: np.ndarray
    names: list[str]
    palette: list | None = None
    path: Path | None = None
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    seg: np.ndarray | None = None
    segments: np.ndarray | None = None
    segment_info: list[dict] | None = None
    frame: int | None = None
    seconds: float | None = None

    @property
    def arrays(self) -> dict[str, Any]:
        """The fields of this task, by name."""
        return {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}

    def __len__(self) -> int:
        """Return the number of objects or segments."""
        return len(self._labels())

    def __repr__(self) -> str:
        counts = Counter(self.names[label] for label in self._labels())
        listed = ', '.join(f'{count} {name}' for name, count in counts.most_common(8))
        more = ', ...' if len(counts) > 8 else ''
        height, width = self.image.shape[:2]
        return f'Result({printable(self.path or "image")}, {width}x{height}: {listed or "nothing"}{more})'

    def _labels(self) -> list[int]:
        if self.labels is not None:
            return [int(label) for label in self.labels]
        return [region['label'] for region in self._regions()]

    def plot(self, score: float = SCORE) -> np.ndarray:
        """Draw boxes, names and masks over the image.

        Args:
            score: objects below this score are left out.

        Returns:
            `(H, W, 3)` BGR uint8, of the image's size; small images are enlarged, huge ones reduced.
        """
        from repvit_dense.artifact.draw import draw

        return draw(self.image, self.arrays, self.names, self.palette, score)

    def save(self, path: str | Path, score: float = SCORE) -> Path:
        """Write `plot(score)` to an image file; the suffix decides about the format. Return the path.

        Raises:
            InputError: the folder is missing, the file cannot be written, or OpenCV cannot write this format.
        """
        path = Path(path)
        if not is_folder(path.parent):
            raise InputError(f'{path}: there is no folder {path.parent}; create it first')
        try:
            content = encode_image(self.plot(score), path.suffix)
            with replacing(path, flush=False) as partial:
                partial.write_bytes(content)
        except InputError as error:
            raise InputError(f'{path}: {error}') from error
        except (OSError, ValueError) as error:
            raise InputError(f'{path}: cannot be written ({getattr(error, "strerror", None) or error})') from error
        return path

    def _repr_jpeg_(self) -> bytes:
        """Show the picture inline in a notebook."""
        return encode_image(self.plot(), '.jpg')

    def objects(self, score: float = SCORE) -> list[dict]:
        """Describe the detected objects, ready for JSON.

        Args:
            score: objects below this score are left out.

        Returns:
            a dict per object with `label` (name), `score`, `box` (x1 y1 x2 y2 in pixels) and, for instance
            segmentation, `mask` (COCO run lengths); empty for semantic and panoptic segmentation.
        """
        described = []
        for label, certainty, box, mask in self._objects(score):
            entry = {
                'label': self.names[label],
                'score': round(certainty, 4),
                'box': [round(float(side), 2) for side in box],
            }
            if mask is not None:
                entry['mask'] = run_lengths(mask, box.tolist())
            described.append(entry)
        return described

    def regions(self) -> list[dict]:
        """Describe the segments of semantic or panoptic segmentation, ready for JSON, largest first.

        Returns:
            a dict per segment with `number` (its value in `segment_map`), `label` (name) and `share` of the pixels;
            empty for a detector.
        """
        described = [
            {'number': region['number'], 'label': self.names[region['label']], 'share': round(region['share'], 4)}
            for region in self._regions()
        ]
        return sorted(described, key=lambda entry: -entry['share'])

    def segment_map(self) -> np.ndarray | None:
        """Return `(H, W)` uint16: class indices (semantic) or segment numbers, 0 for none (panoptic); else None."""
        return None if self._numbers() is None else self._numbers().astype(np.uint16)

    def crops(self, score: float = SCORE) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the label of each object and the part of the image inside its box; empty boxes are left out."""
        height, width = self.image.shape[:2]
        for label, _, box, _ in self._objects(score):
            left, top = (max(0, math.floor(side)) for side in box[:2])
            right, bottom = (min(end, math.ceil(side)) for side, end in zip(box[2:], (width, height), strict=True))
            if right > left and bottom > top:
                yield label, self.image[top:bottom, left:right]

    def mask_images(self, score: float = SCORE) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the label of each object and its mask as an image `(H, W)`: 255 inside, 0 outside."""
        for label, _, _, mask in self._objects(score):
            if mask is not None:
                yield label, mask.astype(np.uint8) * 255

    def to_coco(self, image_id: Any = 0, score: float = 0.0, categories: Sequence[Any] | None = None) -> list[dict]:
        """Return results in COCO's format, ready for JSON and pycocotools.

        Args:
            image_id: id of this image in the annotation file.
            score: objects below this score are left out.
            categories: id of each class in the annotation file, by label; None for the labels themselves.

        Returns:
            a dict per object with `image_id`, `category_id`, `bbox` (x y width height in pixels), `score` and, with
            masks, `segmentation` (run lengths). For semantic and panoptic segmentation a dict per segment, with
            `segmentation` and no box.
        """
        ids = range(len(self.names)) if categories is None else categories
        if self.boxes is None:
            return [
                {
                    'image_id': image_id,
                    'category_id': ids[region['label']],
                    'segmentation': run_lengths(self._numbers() == region['number']),
                }
                for region in self._regions()
            ]
        entries = []
        for label, certainty, box, mask in self._objects(score):
            left, top, right, bottom = (float(side) for side in box)
            entry = {
                'image_id': image_id,
                'category_id': ids[label],
                'bbox': [left, top, right - left, bottom - top],
                'score': certainty,
            }
            if mask is not None:
                entry['segmentation'] = run_lengths(mask, box.tolist())
            entries.append(entry)
        return entries

    def to_supervision(self, score: float = 0.0) -> 'supervision.Detections':
        """Return `supervision.Detections`: boxes, masks, labels, scores and class names.

        A segment of semantic or panoptic segmentation becomes a detection with its mask and the box around it.

        Raises:
            InputError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise InputError('to_supervision() needs supervision: pip install "repvit_dense[convert]"') from error
        masks: np.ndarray | None
        scores: np.ndarray | None = None
        if self.boxes is None or self.scores is None or self.labels is None:
            regions = self._regions()
            labels = np.array([region['label'] for region in regions], int)
            masks = np.zeros((len(regions), *self.image.shape[:2]), bool)
            for mask, region in zip(masks, regions, strict=True):
                np.equal(self._numbers(), region['number'], out=mask)
            boxes = supervision.mask_to_xyxy(masks).astype(np.float32)
        else:
            rows = np.flatnonzero(self.scores >= score)
            boxes, scores, labels = self.boxes[rows], self.scores[rows], self.labels[rows].astype(int)
            masks = None if self.masks is None else self.masks[rows]
        return supervision.Detections(
            xyxy=boxes.reshape(-1, 4),
            mask=masks,
            confidence=scores,
            class_id=labels,
            data={'class_name': np.array([self.names[label] for label in labels], dtype=str)},
        )

    def _objects(self, score: float) -> Iterator[tuple[int, float, np.ndarray, np.ndarray | None]]:
        """Yield label, score, box and mask of the objects that reach a score."""
        if self.boxes is None or self.scores is None or self.labels is None:
            return
        for row in np.flatnonzero(self.scores >= score):
            mask = None if self.masks is None else self.masks[row]
            yield int(self.labels[row]), float(self.scores[row]), self.boxes[row], mask

    def _numbers(self) -> Any:
        """Return the class or segment number of every pixel `(H, W)`; None for a detector."""
        return self.seg if self.segments is None else self.segments

    def _regions(self) -> list[dict]:
        """Return number, label and share of the pixels of every segment in the image."""
        if self._numbers() is None:
            return []
        labels = {index: index for index in range(len(self.names))}
        if self.segments is not None:
            labels = {part['number']: part['label'] for part in self.segment_info or ()}
        present, counts = np.unique(self._numbers(), return_counts=True)
        return [
            {'number': int(number), 'label': labels[int(number)], 'share': float(count / self._numbers().size)}
            for number, count in zip(present, counts, strict=True)
            if int(number) in labels
        ]
