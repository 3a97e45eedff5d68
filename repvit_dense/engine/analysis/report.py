"""The files and the page of an analysis."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repvit_dense.artifact.pictures import is_picture
from repvit_dense.engine.analysis import confusion, thresholds
from repvit_dense.engine.analysis.detections import Matches
from repvit_dense.engine.analysis.regions import Regions
from repvit_dense.engine.analysis.worst import Bad, Worst, draw_images
from repvit_dense.engine.per_class import KINDS
from repvit_dense.engine.tensorboard import add_image
from repvit_dense.files import write_text
from repvit_dense.page import Entries, write_page

if TYPE_CHECKING:
    from repvit_dense.compat.coco_api import Evaluation

SCORE = 0.3  # of the objects in pictures if no threshold is best, as in `predict`
FIGURES = {'confusion.png': 'Confusion matrix', 'precision_recall.png': 'Precision, recall and score threshold'}


class Report:
    """The parts of an analysis, of which a task has some.

    Args:
        folder: existing folder of the files.
        meta: class names and colours of the data.
        classes: scores per class.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], classes: list[dict[str, Any]]):
        self.folder, self.classes = folder, classes
        self.names = list(meta.get('classes') or ())
        palette = meta.get('palette')
        self.palette = palette if isinstance(palette, list | tuple) and len(palette) >= len(self.names) else None
        self.score, self.rule = SCORE, ''
        self.worst: list[Bad] = []
        self.pictures: dict[Path, str] = {}

    def add_thresholds(self, kind: str, evaluation: 'Evaluation') -> None:
        """Draw the curves of a detector, and take the score threshold with the best F1 for everything else."""
        lines = thresholds.curves(evaluation)
        if not lines:
            return
        score, best = thresholds.best_threshold(lines)
        self.score = score if best > 0 else SCORE
        thresholds.draw(lines, self.names, self.folder / 'precision_recall.png', KINDS[kind])
        columns = thresholds.columns(lines, len(self.names))
        self.classes = [
            {**row, **{name: values[label] for name, values in columns.items()}}
            for label, row in enumerate(self.classes)
        ]

    def add_detections(self, kind: str, evaluation: 'Evaluation', files: dict[Any, str]) -> None:
        """Add confusions and worst images of a detector."""
        matches, worst = Matches(evaluation, self.score), Worst()
        self._add_confusion(matches.confusion(self.names, KINDS[kind]))
        matches.rank(worst, files)
        self.worst, self.rule = worst.images(), f'most objects missed or false at --score {self.score:.3f}'

    def add_regions(self, regions: Regions, worst: list[Bad]) -> None:
        """Add confusions and worst images of segmentations."""
        self._add_confusion(regions.confusion())
        self.worst, self.rule = worst, regions.order

    def _add_confusion(self, matrix: confusion.Confusion) -> None:
        confusion.write_csv(matrix, self.folder / 'confusion.csv')
        confusion.draw(matrix, self.folder / 'confusion.png')

    def write_tables(self) -> None:
        """Write the scores per class, if there are any."""
        if self.classes:
            write_rows(self.classes, self.folder / 'per_class.csv')

    def write_page(self, title: str, metrics: dict[str, float], drawn: Mapping[Path, str], curves: Path | None) -> Path:
        """Draw the worst images and write the page; return its path.

        Args:
            title: heading.
            metrics: scores by name.
            drawn: pictures of all images and their images, if there are any; then no others are drawn.
            curves: figure of the training.
        """
        ranks = {image.path: image for image in self.worst}
        if drawn:
            self.pictures = dict(sorted(drawn.items(), key=lambda item: -getattr(ranks.get(item[1]), 'badness', 0)))
        elif self.worst:
            self.pictures = self._draw_worst()
        lines = [json.dumps(_entry(ranks.get(path), self.names)) for path in self.pictures.values()]
        captions = {
            file: f'{ranks[path].text}: {path}' if path in ranks else path for file, path in self.pictures.items()
        }
        figures = {self.folder / name: heading for name, heading in FIGURES.items()}
        if curves:
            figures[curves] = 'Training'
        scope = f'All images, the worst {len(self.worst)} first' if drawn else f'The worst {len(self.pictures)} images'
        caption = f'{scope} ({self.rule}): ground truth on the left, prediction on the right'
        entries = Entries(lines, self.names, self.palette)
        return write_page(self.folder, title, captions, caption, metrics, figures, self.classes, entries)

    def _draw_worst(self) -> dict[Path, str]:
        folder = self.folder / 'worst'
        folder.mkdir(exist_ok=True)
        for old in folder.glob('*.jpg'):
            if is_picture(old):
                old.unlink()
        return draw_images(self.worst, folder, self.names, self.palette, self.score)

    def send_to_tensorboard(self, runner) -> None:
        """Add figures and worst images to the log of TensorBoard, if the run has one."""
        worst = {image.path for image in self.worst}
        for name in FIGURES:
            add_image(runner, f'test/{Path(name).stem}', self.folder / name)
        for number, file in enumerate([file for file, path in self.pictures.items() if path in worst], 1):
            add_image(runner, f'test/worst/{number:02}', file)


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows with the same keys as CSV; None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator='\n')
    writer.writeheader()
    for row in rows:
        writer.writerow({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def _entry(image: Bad | None, names: list[str]) -> dict[str, Any]:
    """Return the data by which the page sorts and filters a picture."""
    if image is None:
        return {'quality': 0}
    found = image.sides[1]
    if 'labels' in found:
        objects = zip(found['labels'].tolist(), found['scores'].tolist(), strict=True)
        parts = {'objects': [{'label': names[label], 'score': round(score, 4)} for label, score in objects]}
    else:
        labels = np.unique(found['seg']).tolist() if 'seg' in found else [s['label'] for s in found['segment_info']]
        parts = {'segments': [{'label': names[label]} for label in labels if label < len(names)]}
    return {'quality': -image.badness, **parts}
