"""Check images and masks with semantic labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from repvit_dense.data.checks.report import Finding, Report, findings_of, sample
from repvit_dense.data.reading import image_size, read_pixels

IGNORED = 255  # label that the losses ignore


def semantic(pairs: Sequence[tuple[Path, Path]], num_classes: int, reduce_zero_label: bool = False) -> Report:
    """Check images and masks whose pixel values are class numbers.

    Args:
        pairs: image and mask of each sample.
        num_classes: number of classes of the config.
        reduce_zero_label: 0 is ignored and 1 is the first class, as in ADE20K.

    Raises:
        InputError: an image or a mask cannot be read as an image.
    """
    findings = [] if pairs else [Finding('error', 'there are no images', [])]
    for index, name in enumerate(('images', 'masks')):
        missing = (pair[index] for pair in pairs if not Path(pair[index]).is_file())
        findings += findings_of('error', f'{{}} of the {len(pairs):,} {name} do not exist', missing)
    coloured, wrong_size, beyond = [], [], []
    last = num_classes if reduce_zero_label else num_classes - 1
    chosen, checked = sample([pair for pair in pairs if all(Path(path).is_file() for path in pair)], 'masks')
    for image, mask in chosen:
        labels = read_pixels(mask)
        if labels.ndim != 2:
            coloured.append(mask)
            continue
        if labels.shape != image_size(image)[::-1]:
            wrong_size.append(f'{mask}: {labels.shape[1]}x{labels.shape[0]}')
        values = np.unique(labels)
        values = values[(values > last) & (values != IGNORED)]
        if len(values):
            beyond.append(f'{mask}: {", ".join(map(str, values[:3].tolist()))}')
    findings += findings_of('error', '{} masks have colours instead of class numbers', coloured)
    findings += findings_of('error', '{} masks do not have the size of their image', wrong_size)
    findings += findings_of('error', f'{{}} masks have values over {last}, the last of {num_classes} classes', beyond)
    return Report(f'{len(pairs):,} images, {num_classes} classes, {checked}', findings)
