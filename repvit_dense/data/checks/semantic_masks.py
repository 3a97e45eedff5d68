"""Check images and masks with semantic labels."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from repvit_dense.data.checks.report import Finding, ImageEntry, Report, findings_of, sample
from repvit_dense.data.reading import read_pixels
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, open_regular

IGNORED = 255  # label that the losses ignore
LOSSY = ('JPEG', 'MPO', 'JPEG2000', 'AVIF', 'HEIF')


def semantic(
    pairs: Sequence[tuple[Path, Path]],
    classes: Sequence[str],
    reduce_zero_label: bool = False,
    label_map: Iterable[tuple[int, int]] = (),
    training: bool = True,
) -> Report:
    """Check images and masks whose pixel values are class numbers.

    Args:
        pairs: image and mask of each sample.
        classes: class names of the config.
        reduce_zero_label: 0 is ignored and 1 is the first class, as in ADE20K.
        label_map: pairs of a value in the masks and its label, where they differ otherwise.
        training: masks with one class only are an error, because a model would learn to answer that class everywhere;
            else a warning.

    Raises:
        InputError: an image or a mask cannot be read as an image.
    """
    table = _labels_of_values(reduce_zero_label, label_map)
    findings = [] if pairs else [Finding('error', 'there are no images', [])]
    if len(classes) == 1:
        text = f"'{classes[0]}' is the only class, so every pixel is one; add a class such as 'background'"
        findings.append(Finding('error', text, []))
    lost = (name for label, name in enumerate(classes) if label not in table)
    findings += findings_of('error', '{} classes have no value in the masks, because their value is ignored', lost)
    for index, name in enumerate(('images', 'masks')):
        missing = (pair[index] for pair in pairs if not is_file(pair[index]))
        findings += findings_of('error', f'{{}} of the {len(pairs):,} {name} do not exist', missing)
    existing = [pair for pair in pairs if is_file(pair[0]) and is_file(pair[1])]
    chosen, checked = sample(existing, 'masks')
    masks = _Masks(table, len(classes))
    for _, mask in chosen:
        masks.examine(mask)
    for _, mask in existing if len(chosen) < len(existing) and not masks.findings() else ():
        if len(masks.seen - {IGNORED}) > 1:  # the classes of a large data set may be rare in the sample
            break
        masks.add_labels(mask)
    findings += masks.findings()
    if not findings:
        findings = _absent_classes(classes, masks, table, training)
    images = [ImageEntry(str(image), str(image), mask=str(mask)) for image, mask in pairs]
    return Report(f'{len(pairs):,} images, {len(classes)} classes, {checked}', findings, images)


def _labels_of_values(reduce_zero_label: bool, label_map: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return the labels `(256,)` of the values of a mask, as the loader computes them."""
    from repvit_dense.data.label_map import apply  # imports mmengine

    values = np.arange(256)
    reduced = np.where((values == 0) | (values == IGNORED), IGNORED, values - 1) if reduce_zero_label else values
    return apply(label_map, reduced.astype(np.uint8), reduce_zero_label)


class _Masks:
    """The masks that were decoded: the labels in them and their faults.

    Attributes:
        seen: labels, among them that of ignored pixels.
        values: values of the files.
    """

    def __init__(self, table: np.ndarray, num_classes: int):
        self.seen: set[int] = set()
        self.values: set[int] = set()
        self._table, self._num_classes = table, num_classes
        self._faults: dict[str, list[str]] = {}

    def examine(self, mask: Path) -> None:
        """Decode a mask; note its labels and its faults."""
        try:
            lossy, pixels = _is_lossy(mask), read_pixels(mask)
        except InputError as error:
            self._add('{} masks cannot be decoded', str(error))
            return
        if lossy:
            self._add('{} masks are in a lossy format, which changes class numbers; write PNG files', mask)
        elif pixels.ndim != 2:
            message = '{} masks have colours instead of class numbers; write one channel with the class numbers'
            self._add(message, f'{mask}: {pixels.shape[2]} channels')
        else:
            self._note(mask, _values(pixels))

    def add_labels(self, mask: Path) -> None:
        """Note the labels of a mask only, if it can be decoded."""
        with suppress(InputError):
            pixels = read_pixels(mask)
            if pixels.ndim == 2:
                self._note(mask, _values(pixels))

    def _note(self, mask: Path, values: np.ndarray) -> None:
        whole = np.isfinite(values) & (values >= 0) & (values <= 255) & (values == np.floor(values))
        if not whole.all():
            shown = ', '.join(f'{value:g}' for value in values[~whole][:3])
            self._add('{} masks have values that are not whole numbers from 0 to 255', f'{mask}: {shown}')
        values = values[whole].astype(np.uint8)
        labels = self._table[values]
        self.values |= set(values.tolist())
        self.seen |= set(labels.tolist())
        beyond = values[(labels >= self._num_classes) & (labels != IGNORED)]
        if len(beyond):
            valid = np.flatnonzero(self._table < self._num_classes)
            last = f'{{}} masks have values over {valid[-1]}, the last of {self._num_classes} classes'
            remedy = '; if one value stands for pixels without a class, name it: --ignore-index N'
            self._add(last + remedy, f'{mask}: {", ".join(map(str, beyond[:3].tolist()))}')

    def _add(self, message: str, offender: object) -> None:
        self._faults.setdefault(message, []).append(str(offender))

    def findings(self) -> list[Finding]:
        """Return a finding for each kind of fault."""
        return [finding for message, masks in self._faults.items() for finding in findings_of('error', message, masks)]


def _values(pixels: np.ndarray) -> np.ndarray:
    """Return the different values, in ascending order."""
    if pixels.dtype == np.uint8:
        return np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    return np.unique(pixels).astype(np.float64)


def _is_lossy(mask: Path) -> bool:
    from PIL import Image

    try:
        with open_regular(mask) as file, Image.open(file) as image:
            return image.format in LOSSY or 'jpeg' in str(image.info.get('compression'))
    except InputError:
        raise
    except Exception:  # read_pixels says why it cannot be read
        return False


def _absent_classes(classes: Sequence[str], masks: _Masks, table: np.ndarray, training: bool) -> list[Finding]:
    """Return a finding about classes without a pixel."""
    absent = [label for label in range(len(classes)) if label not in masks.seen]
    if not absent:
        return []
    hint = ''
    if IGNORED in masks.values:
        value = np.flatnonzero(table == absent[0])[0]
        hint = f"; pixels of value 255 are ignored: write {value} for '{classes[absent[0]]}'"
    if len(classes) - len(absent) <= 1 and training:
        present = next((repr(name) for label, name in enumerate(classes) if label not in absent), 'no class')
        return [Finding('error', f'the masks have pixels of {present} only, so there is nothing to learn{hint}', [])]
    message = f'{{}} classes have no pixel in the masks that were checked{hint}'
    return findings_of('warning', message, (classes[label] for label in absent))
