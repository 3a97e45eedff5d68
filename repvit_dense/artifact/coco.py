"""Write results in COCO's formats: detections as pycocotools' `loadRes` reads them, or panoptic segments."""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from repvit_dense.artifact.result import Result
from repvit_dense.data.reading import read_coco
from repvit_dense.errors import InputError
from repvit_dense.files import encode_image, replacing, write_text
from repvit_dense.screen import say

RESULTS, IMAGES, PANOPTIC = 'predictions.coco.json', 'predictions.coco.images.json', 'predictions.coco.panoptic'


@dataclass(frozen=True)
class Ids:
    """The ids of images and categories.

    Attributes:
        images: id by the name of an image; other images are numbered.
        categories: id by label.
        file: the annotation file they come from; None if all are numbered from 1.
    """

    images: dict[str, Any]
    categories: list[Any]
    file: Path | None = None


def choose_ids(names: Sequence[str], classes: Sequence[str], named: Path | None, candidates: Sequence[Path]) -> Ids:
    """Return the ids of an annotation file that has all images and classes, else numbers from 1; say which.

    An image is the one whose `file_name` its path ends in.

    Args:
        names: images.
        classes: class names, by label.
        named: annotation file that the user named.
        candidates: annotation files that the config names.

    Raises:
        InputError: an image or a class is not in the file `named`.
    """
    reasons = []
    for file in [named] if named else candidates:
        content = read_coco(file)
        categories = {category['name']: category['id'] for category in content['categories']}
        ids = {str(entry.get('file_name')): entry['id'] for entry in content['images'] if 'id' in entry}
        images = {name: _lookup(name, ids) for name in names}
        count = Counter(images.values())
        missing = [
            f"the image '{name}'" + (' (another one of this run has its file name)' if number is not None else '')
            for name, number in images.items()
            if number is None or count[number] > 1
        ]
        missing += [f"the class '{name}'" for name in classes if name not in categories]
        if not missing:
            say(f'{RESULTS}: ids of images and categories are those of {file}')
            return Ids(images, [categories[name] for name in classes], file)
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        reasons.append(f'{file} lacks {missing[0]}{more}')
    if named:
        raise InputError(f'--save coco: {reasons[0]}; name the annotation file of these images, or leave it out')
    because = f' ({reasons[0]})' if reasons else ''
    say(f'{RESULTS}: images and categories are numbered from 1, see {IMAGES}{because}')
    return Ids({}, list(range(1, len(classes) + 1)))


def _lookup(name: str, ids: dict[str, Any]) -> Any:
    """Return the id of the image whose `file_name` is the longest end of a path; None if there is none."""
    parts = Path(name).parts
    ends = ('/'.join(parts[start:]).lstrip('/') for start in range(len(parts)))
    return next((ids[end] for end in ends if end in ids), None)


class CocoResults:
    """The results of a run; they are written to the folder at the end.

    Args:
        folder: an existing folder.
        classes: class names, by label.
        task: a panoptic one makes the panoptic format, any other the format of detections.
        ids: ids of images and categories.
    """

    def __init__(self, folder: Path, classes: Sequence[str], task: str, ids: Ids):
        self.folder, self.ids, self.is_panoptic = folder, ids, task == 'panoptic'
        self.categories: list[dict] = [
            {'id': number, 'name': name} for number, name in zip(ids.categories, classes, strict=True)
        ]
        self.images: list[dict] = []
        self._lines: IO[str] = tempfile.TemporaryFile('w+', encoding='utf-8', dir=folder)  # noqa: SIM115  until finish

    def add(self, name: str, stem: str, result: Result, score: float) -> None:
        """Add the result of an image or frame.

        Args:
            name: as in `predictions.json`.
            stem: name of the files of this result.
            result: the prediction.
            score: objects below this score are left out.
        """
        number = self.ids.images.get(name, len(self.images) + 1)
        height, width = result.image.shape[:2]
        file_name = name if result.frame is None else f'{name}#{result.frame}'
        if self.is_panoptic:
            entries = [self._add_segments(number, f'{stem}.png', result)]
        else:
            entries = result.to_coco(number, score, self.ids.categories)
        for entry in entries:
            self._lines.write(json.dumps(entry, allow_nan=False) + '\n')
        self.images.append({'id': number, 'file_name': file_name, 'width': width, 'height': height})

    def _add_segments(self, number: Any, file_name: str, result: Result) -> dict:
        """Write the picture of panoptic segments, whose colours are their numbers, and return its entry."""
        numbers = np.asarray(result.segments, np.uint32)
        pixels = np.stack([numbers >> 16, numbers >> 8, numbers], 2).astype(np.uint8)  # BGR: red holds the lowest byte
        (self.folder / PANOPTIC).mkdir(exist_ok=True)
        with replacing(self.folder / PANOPTIC / file_name, flush=False) as partial:
            partial.write_bytes(encode_image(pixels, '.png'))
        segments = []
        for part in result.segment_info or ():
            rows, columns = np.nonzero(numbers == part['number'])
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else [0] * 4
            segments.append(
                {
                    'id': part['number'],
                    'category_id': self.ids.categories[part['label']],
                    'bbox': [int(side) for side in box],
                    'area': len(rows),
                    'iscrowd': 0,
                }
            )
        return {'image_id': number, 'file_name': file_name, 'segments_info': segments}

    def finish(self) -> None:
        """Write the results and the list of images, which is an annotation file without annotations."""
        self._lines.seek(0)
        images, categories = (f'"{key}": {json.dumps(getattr(self, key))}' for key in ('images', 'categories'))
        head, tail = ('{"annotations": [', f'], {images}, {categories}}}') if self.is_panoptic else ('[', ']')
        with replacing(self.folder / RESULTS) as partial, partial.open('w', encoding='utf-8') as file:
            file.write(head)
            for position, line in enumerate(self._lines):
                file.write((',\n' if position else '\n') + line.rstrip('\n'))
            file.write(f'\n{tail}\n')
        self._lines.close()
        write_text(self.folder / IMAGES, f'{{{images}, "annotations": [], {categories}}}\n')
