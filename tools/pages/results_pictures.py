"""Draw predictions of a trained model for docs/img: photograph, labels and prediction side by side."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from repvit_dense.artifact.draw import draw
from repvit_dense.engine.pictures import side_by_side
from repvit_dense.errors import InputError
from repvit_dense.files import replacing
from tools.pages.results_table import Training

FOLDER = Path('docs', 'img')
IMAGES = 4
SIDE = 240  # pixels; height and width of a cell
LARGEST = 150_000  # bytes of a file
QUALITIES = (85, 75, 65, 55, 45, 35, 25)
PAPER = 255  # level of empty places, and of the image under predictions whose photograph is not shown
NOTHING = {'boxes': np.zeros((0, 4)), 'labels': np.zeros(0, int)}


def write(training: Training, folder: Path) -> Path:
    """Draw images at even distances of the split that the training is scored on; return the path of the picture."""
    data = training.data
    samples = predictions(training, folder)
    pictures = [fit(cell) for sample in samples for cell in cells(*sample, data.photographs)]
    columns = 3 if data.photographs else 2
    pictures += [np.full_like(pictures[0], PAPER)] * (-len(pictures) % columns)
    rows = [side_by_side(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    picture = np.vstack(rows)
    path = FOLDER / f'results-{data.name}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(encode(picture))
    return path


def predictions(training: Training, folder: Path) -> list[tuple[Any, list[str], list | None]]:
    """Return data samples with labels and predictions, the class names and their colours."""
    import torch
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS

    from repvit_dense.commands import load
    from repvit_dense.config.splits import use_split

    model: Any = load.run(load.Options(folder))
    use_split(model.cfg, training.split)
    dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
    positions = [(2 * i + 1) * len(dataset) // (2 * IMAGES) for i in range(min(IMAGES, len(dataset)))]
    with torch.inference_mode():
        samples = [model.network.test_step(pseudo_collate([dataset[i]]))[0].cpu() for i in positions]
    return [(sample, model.names, model.palette) for sample in samples]


def cells(sample: Any, names: list[str], palette: list | None, photographs: bool) -> list[np.ndarray]:
    """Return photograph, labels and prediction of a sample, or its prediction on blank paper alone."""
    from repvit_dense.artifact.images import read_image
    from repvit_dense.engine.results import arrays, ground_truth

    image = read_image(sample.img_path)
    prediction = arrays(sample, len(names))
    if not photographs:
        return [draw(np.full_like(image, PAPER), prediction, names, palette)]
    return [draw(image, side, names, palette) for side in (NOTHING, ground_truth(sample, len(names)), prediction)]


def fit(picture: np.ndarray) -> np.ndarray:
    """Return a picture reduced or enlarged to a cell, with white paper around it."""
    height, width = picture.shape[:2]
    factor = SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    cell = np.full((SIDE, SIDE, 3), PAPER, np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cell


def encode(picture: np.ndarray) -> bytes:
    """Return a picture as a JPEG of at most `LARGEST` bytes.

    Raises:
        InputError: no quality makes it as small.
    """
    for quality in QUALITIES:
        _, content = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(content) <= LARGEST:
            return content.tobytes()
    raise InputError(f'the picture has more than {LARGEST:,} bytes at any quality; draw fewer images')
