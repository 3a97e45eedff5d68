"""Draw predictions of a trained model for docs/img: photograph, labels and prediction side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from repvit_dense.artifact.draw import draw
from repvit_dense.artifact.result import SCORE
from repvit_dense.engine.pictures import side_by_side
from repvit_dense.errors import InputError
from repvit_dense.files import replacing
from tools.pages.results_table import Training

FOLDER = Path('docs', 'img')
IMAGES = 4
SIDE, GAP = 300, 4  # pixels; width and largest height of a cell, and between cells
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
    pictures += [np.full((1, SIDE, 3), PAPER, np.uint8)] * (-len(pictures) % columns)
    picture = np.vstack([in_a_row(pictures[i : i + columns]) for i in range(0, len(pictures), columns)])
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
    sides = (NOTHING, ground_truth(sample, len(names)), prediction)
    return [(outline if len(names) == 1 and 'masks' in side else draw)(image, side, names, palette) for side in sides]


def outline(image: np.ndarray, arrays: Mapping, names: list[str], palette: list | None) -> np.ndarray:
    """Draw the outlines of masks; the name of a single class would only cover them."""
    canvas = draw(image, NOTHING, names, palette)
    colour = [int(level) for level in (palette or [(0, 255, 0)])[0]][::-1]
    scores = arrays.get('scores', np.ones(len(arrays['masks'])))
    for mask in arrays['masks'][scores >= SCORE]:
        pixels = cv2.resize(mask.astype(np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, colour, max(1, round(min(canvas.shape[:2]) / 200)), cv2.LINE_AA)
    return canvas


def fit(picture: np.ndarray) -> np.ndarray:
    """Return a picture reduced or enlarged to a cell, with paper on both sides of a tall one."""
    height, width = picture.shape[:2]
    factor = SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    cell = np.full((size[1], SIDE, 3), PAPER, np.uint8)
    left = (SIDE - size[0]) // 2
    cell[:, left : left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cell


def in_a_row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return cells side by side, with paper below the lower ones and below the row."""
    height = max(len(picture) for picture in pictures) + GAP
    padded = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=PAPER) for p in pictures]
    return side_by_side(padded)


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
