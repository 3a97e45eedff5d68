"""The export graphs: one export-friendly forward pass per model family, in one row of `FAMILIES` and one module."""

import importlib
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from repvit_dense.exporting.graphs.base import Graph

# Type of the model, or model/head (or a base of its class) if the head decides -> module in this folder, and class.
FAMILIES = {
    'MaskRCNN': ('two_stage', 'TwoStage'),
    'CascadeRCNN': ('two_stage', 'TwoStage'),
    'RetinaNet': ('one_stage', 'RetinaNet'),
    'SingleStageDetector': ('one_stage', 'SSDLite'),
    'RTMDet/RTMDetInsHead': ('rtmdet', 'RTMDetIns'),
    'RTMDet': ('rtmdet', 'RTMDet'),
    'DETR': ('detr', 'DETR'),
    'Mask2Former': ('mask2former', 'Mask2Former'),
    'EncoderDecoder/Mask2FormerHead': ('mask2former', 'Mask2FormerSemantic'),
    'EncoderDecoder': ('segmentor', 'Segmentor'),
}
# Classes of modules that compute pixel coordinates and indices in their own forward, outside their layers. Half
# precision cannot tell neighbouring pixels apart beyond 2048.
COORDINATE_MODULES = ('DeformableAttention', 'PixelDecoder')


def build(model: 'nn.Module', plain: bool = False) -> 'Graph':
    """Return the export graph of a trained model.

    Args:
        model: a fused model in eval mode.
        plain: use only operators that every runtime has, see `Graph`.

    Raises:
        InputError: no graph exists for this type of model.
    """
    kind = type(model).__name__
    head = getattr(model, 'decode_head', None) or getattr(model, 'bbox_head', None)
    keys = [*(f'{kind}/{base.__name__}' for base in type(head).__mro__), kind]
    family = next((FAMILIES[key] for key in keys if key in FAMILIES), None)
    if family is None:
        raise InputError(f'{kind}: models of this type cannot be exported; known: {", ".join(FAMILIES)}')
    module = importlib.import_module(f'{__name__}.{family[0]}')
    return getattr(module, family[1])(model, plain).eval()
