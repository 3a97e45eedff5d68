"""Put a trained model into the package: export it, measure it on the bundled images, write floors and card.

`tests/artifact/test_pretrained.py` holds the packaged model to the floors.
"""

import contextlib
import io
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from repvit_dense.artifact import card, manifest, pretrained
from repvit_dense.artifact.predictor import Predictor
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.options import option
from repvit_dense.screen import say

LARGEST = 8_000_000  # bytes of all files of a model
ROOM = 0.03  # by which a score may differ on another processor
IMAGES = Path(__file__).parents[2] / 'tests' / 'golden'
FLOORS, CARD = 'floors.json', 'card.md'
LICENCE = 'apache-2.0'  # of the weights


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    model: Path = option(positional=True, type=Path, metavar='MODEL', help='work dir or checkpoint, or an artifact')
    name: str = option('nuclei', choices=tuple(pretrained.NAMES), metavar='NAME', help='name in the package')
    precision: str = option('int8', choices=('fp32', 'fp16', 'int8'), help='precision of the ONNX file')


def run(options: Options) -> int:
    """Replace the packaged model.

    Raises:
        InputError: the model cannot be exported, or the artifact is too large; the packaged model is unchanged.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model if manifest.is_artifact(options.model) else _export(options, Path(temporary))
        about = manifest.read(folder)
        size = sum((folder / file).stat().st_size for file in (*(about.files or ()), manifest.NAME))
        if size > LARGEST:
            raise InputError(f'{folder}: {size:,} bytes, more than {LARGEST:,}; try another --precision')
        images = IMAGES / options.name
        scores = score(folder, images)
        target = pretrained.ROOT / options.name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in (*(about.files or ()), manifest.NAME):
            shutil.copy(folder / file, target)
    write_text(target / 'README.md', _card(options.name, size, scores))
    say(f'{target}: {size:,} bytes, {", ".join(f"{key} {value:.3f}" for key, value in scores.items())}')
    floors = {
        'model_sha256': (about.files or {})[about.model],
        'measured': {key: round(value, 4) for key, value in scores.items()},
        'floors': {key: round(value - ROOM, 2) for key, value in scores.items()},
    }
    write_text(images / FLOORS, json.dumps(floors, indent=1) + '\n')
    return 0


def _export(options: Options, folder: Path) -> Path:
    """Export with an open size, so that images and tiles of any size fit."""
    from repvit_dense.commands import export
    from repvit_dense.exporting import quantize

    quantize.DEFAULT['onnx'] = 'portable'  # the model goes to unknown processors
    exports = export.run(
        export.Options(options.model, to=['onnx'], out=folder, dynamic=('size',), precision=options.precision)
    )
    for reason in exports.failed.values():
        raise InputError(reason)
    return exports.folders['onnx']


def _card(name: str, size: int, scores: dict[str, float]) -> str:
    """Return the general card of the artifact, followed by the text of `card.md`."""
    general = card.card(card.of_artifact(pretrained.ROOT / name, name, LICENCE))
    listed = ', '.join(f'{key.replace("_", " ")} {value:.3f}' for key, value in scores.items())
    special = (IMAGES / name / CARD).read_text().format(megabytes=round(size / 1e6, 1), scores=listed)
    return general + special


def score(folder: Path, images: Path) -> dict[str, float]:
    """Return the mask AP and AP50 of an artifact on labelled images.

    Args:
        folder: folder of the artifact.
        images: holds `labels.json` in COCO's format and the folder `images`.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    model = Predictor(folder, threads=1)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(images / 'labels.json')
        results = []
        for entry in truth.imgs.values():
            results += model(images / 'images' / entry['file_name']).to_coco(entry['id'], 0, truth.getCatIds())
        if not results:
            raise InputError(f'{folder}: the model finds nothing in the images of {images}')
        evaluation = COCOeval(truth, truth.loadRes(results), 'segm')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {'mask_AP': float(evaluation.stats[0]), 'mask_AP50': float(evaluation.stats[1])}
