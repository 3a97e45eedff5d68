"""The confusion matrix of a test: the classes of the ground truth, and what was predicted in their place."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repvit_dense.engine.analysis.figures import label, new_figure, save
from repvit_dense.files import write_text

BACKGROUND = 'background'
MOST_CLASSES = 30  # with more of them the names and numbers in the cells cannot be read
PAIRS = 30  # confused pairs that are listed


@dataclass
class Confusion:
    """Counts of pairs of classes.

    Attributes:
        counts: `(classes + 1, classes + 1)`: rows are classes of the ground truth, columns predicted ones, and the last
            row and column stand for no object. Pixels always have a class, so theirs is `(classes, classes)`.
        names: class names.
        rule: the things that are counted, and when two of them belong together.
    """

    counts: np.ndarray
    names: Sequence[str]
    rule: str

    @property
    def labels(self) -> list[str]:
        """Return the names of the rows and columns."""
        return [*self.names, BACKGROUND][: len(self.counts)]

    @property
    def shares(self) -> np.ndarray:
        """Return the counts divided by the sum of their row."""
        return self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)

    def pairs(self) -> list[tuple[str, str, int, float]]:
        """Return the confused pairs, most frequent first: true class, predicted class, count, share of the row."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind='stable')[: np.count_nonzero(wrong)]
        rows, columns = np.unravel_index(order, wrong.shape)
        labels, shares = self.labels, self.shares
        return [
            (labels[i], labels[j], int(wrong[i, j]), float(shares[i, j])) for i, j in zip(rows, columns, strict=True)
        ]


def write_csv(confusion: Confusion, path: Path) -> None:
    """Write the counts: one row per class of the ground truth, one column per predicted class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['truth \\ prediction', *confusion.labels])
    writer.writerows([name, *row.tolist()] for name, row in zip(confusion.labels, confusion.counts, strict=True))
    write_text(path, text.getvalue())


def draw(confusion: Confusion, path: Path) -> None:
    """Draw the matrix; with many classes, draw it without names, beside a list of the most confused pairs."""
    labels, shares = [label(name) for name in confusion.labels], confusion.shares
    few = len(confusion.names) <= MOST_CLASSES
    side = max(4.5, 1.5 + 0.45 * len(labels)) if few else 8
    figure = new_figure((side + 1, side) if few else (15, 8))
    matrix, *rest = figure.subplots(1, 1 if few else 2, squeeze=False)[0]
    image = matrix.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    matrix.set(xlabel='prediction', ylabel='ground truth', title=label(confusion.rule, 70))
    if few:
        matrix.set_xticks(range(len(labels)), labels, rotation=45, ha='right', rotation_mode='anchor')
        matrix.set_yticks(range(len(labels)), labels)
        _write_shares(matrix, confusion)
    figure.colorbar(image, ax=matrix, shrink=0.8, label='share of the row')
    for axes in rest:
        _draw_pairs(axes, confusion)
    save(figure, path)


def _write_shares(axes, confusion: Confusion) -> None:
    shares = confusion.shares
    for (row, column), count in np.ndenumerate(confusion.counts):
        if count:
            share = shares[row, column]
            text = f'{share:.2f}'.removeprefix('0') if share < 0.995 else '1'
            axes.text(column, row, text, ha='center', va='center', size=8, color='white' if share > 0.6 else 'black')


def _draw_pairs(axes, confusion: Confusion) -> None:
    pairs = [pair for pair in confusion.pairs() if BACKGROUND not in pair[:2]][:PAIRS]
    names = [f'{label(true, 24)} \u2192 {label(predicted, 24)}' for true, predicted, *_ in pairs]
    most = max((number for *_, number, _ in pairs), default=1)
    axes.barh(range(len(pairs)), [number for *_, number, _ in pairs], color='tab:red', alpha=0.6)
    axes.set_yticks(range(len(pairs)), names, size=9)
    axes.set(title='most frequent confusions: truth \u2192 prediction', xlabel='count', xlim=(0, 1.25 * most))
    axes.invert_yaxis()
    for position, (*_, number, share) in enumerate(pairs):
        axes.text(number + 0.02 * most, position, f'{number:,} ({share:.0%} of the row)', va='center', size=8)
