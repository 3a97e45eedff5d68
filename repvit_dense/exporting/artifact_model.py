"""An artifact as a model of mmengine, so that a Runner can evaluate it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData

from repvit_dense.artifact.predictor import Predictor
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.structures import BaseDataElement

    from repvit_dense.artifact.manifest import Manifest
    from repvit_dense.artifact.result import Result


@MODELS.register_module()
class DenseArtifactModel(BaseModel):
    """An artifact behind the interface of a model; it can only predict.

    Args:
        folder: of the artifact.
        threads: CPU threads of its runtime; None for the runtime's default.
    """

    def __init__(self, folder: str, threads: int | None = None):
        super().__init__()
        self.predictor = Predictor(folder, threads)

    def test_step(self, data: dict) -> list:
        """Predict the images that the data samples name; the images in `data` are not used."""
        samples = data['data_samples']
        results = self.predictor.stream(Path(sample.img_path) for sample in samples)  # never a web address
        return [
            fill_sample(sample, result, self.predictor.manifest)
            for sample, result in zip(samples, results, strict=True)
        ]

    def forward(self, *args, **kwargs):
        """Raise NotImplementedError: an artifact cannot be trained."""
        raise NotImplementedError('an artifact only predicts')


def fill_sample(sample: 'BaseDataElement', result: 'Result | InputError', manifest: 'Manifest') -> 'BaseDataElement':
    """Store a result of `Predictor` in a data sample of mmdet or mmseg, as their own models do; return the sample.

    Raises:
        InputError: the image could not be read.
    """
    if isinstance(result, InputError):
        raise result
    if result.seg is not None:
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(result.seg)[None].long())
        return sample
    from mmdet.models.utils.misc import samplelist_boxtype2tensor

    samplelist_boxtype2tensor([sample])  # of the annotations; usually done by a data_preprocessor
    if result.segments is not None and result.segment_info is not None:
        ids = panoptic_map(result.segments, result.segment_info, len(manifest.classes))
        sample.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(ids)[None])
        return sample
    names = {'boxes': 'bboxes', 'scores': 'scores', 'labels': 'labels', 'masks': 'masks'}
    arrays = {names[key]: torch.from_numpy(value) for key, value in result.arrays.items()}
    arrays['labels'] = arrays['labels'].long()
    sample.pred_instances = InstanceData(**arrays)
    return sample


def panoptic_map(segments: np.ndarray, segment_info: list[dict], num_classes: int) -> np.ndarray:
    """Return mmdet's panoptic map `(H, W)` int32.

    A pixel holds class + 1000 * instance number, counted from 1 for things and 0 for stuff; or the number of classes if
    it belongs to no segment.

    Args:
        segments: `(H, W)` segment numbers, 0 for none.
        segment_info: number, label and kind of each segment, see `Result`.
        num_classes: number of classes.
    """
    from mmdet.evaluation import INSTANCE_OFFSET

    ids = np.full(max([0, *(part['number'] for part in segment_info)]) + 1, num_classes, np.int32)
    things = 0
    for part in segment_info:
        things += part['is_thing']
        ids[part['number']] = part['label'] + INSTANCE_OFFSET * (things if part['is_thing'] else 0)
    return ids[segments]
