"""mmdet's SSDHead, able to predict."""

from typing import TYPE_CHECKING

from mmengine.registry import MODELS

if TYPE_CHECKING:
    from mmdet.models import SSDHead


@MODELS.register_module(name='DenseSSDHead')
def dense_ssd_head(**settings) -> 'SSDHead':
    """Build an SSDHead (arXiv 1512.02325) that can predict; the arguments are those of SSDHead.

    Since version 3.2 mmdet asks the `loss_cls` of each head for a custom activation before it predicts. SSDHead lacks
    the attribute, because it computes its loss itself, and fails with an AttributeError. None selects softmax.
    """
    from mmdet.models import SSDHead

    head = SSDHead(**settings)
    head.loss_cls = None
    return head
