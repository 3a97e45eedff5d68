"""One export-friendly forward per architecture family."""

import importlib
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from repvit_dense.exporting.graphs.base import Graph

# Type of the model, and of the head where that decides -> module and class here.
FAMILIES = {
    'MaskRCNN': ('two_stage', 'TwoStage'),
    'CascadeRCNN': ('two_stage', 'TwoStage'),
    'RetinaNet': ('one_stage', 'RetinaNet'),
    'SingleStageDetector': ('one_stage', 'SSDLite'),
    'RTMDet': ('rtmdet', 'RTMDetIns'),
    'DETR': ('detr', 'DETR'),
    'Mask2Former': ('mask2former', 'Mask2Former'),
    'EncoderDecoder/Mask2FormerHead': ('mask2former', 'Mask2FormerSemantic'),
    'EncoderDecoder': ('segmentor', 'Segmentor'),
}


def build(model: 'nn.Module', plain: bool = False) -> 'Graph':
    """The export graph of a trained model.

    Args:
        model: in eval mode and fused.
        plain: only operators that every runtime has, see `Graph`.

    Raises:
        InputError: a kind of model no graph is written for.
    """
    kind = type(model).__name__
    head = type(getattr(model, 'decode_head', None)).__name__
    family = FAMILIES.get(f'{kind}/{head}') or FAMILIES.get(kind)
    if family is None:
        raise InputError(f'{kind}: this kind of model cannot be exported; known: {", ".join(FAMILIES)}')
    module = importlib.import_module(f'{__name__}.{family[0]}')
    return getattr(module, family[1])(model, plain).eval()
