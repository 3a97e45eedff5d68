"""mmdet's SSDHead, able to predict."""

from typing import TYPE_CHECKING

from mmengine.registry import MODELS

if TYPE_CHECKING:
    from mmdet.models import SSDHead


@MODELS.register_module(name='DenseSSDHead')
def predicting_ssd_head(**settings) -> 'SSDHead':
    """Build an SSDHead (arXiv 1512.02325) of these settings.

    Since version 3.2, mmdet asks every head's `loss_cls` whether it has an activation of its own before it predicts;
    this head computes its loss itself and has none, so it ends in an AttributeError. None means: no, softmax.
    """
    from mmdet.models import SSDHead

    head = SSDHead(**settings)
    head.loss_cls = None
    return head
