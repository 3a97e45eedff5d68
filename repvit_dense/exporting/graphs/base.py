"""What every export graph offers: from the normalised image to the final result, in tensors of fixed size."""

from torch import Tensor, nn

from repvit_dense.artifact.manifest import OUTPUTS


class Graph(nn.Module):
    """A trained model as one function of tensors, without decisions that depend on data.

    Args:
        model: the whole detector or segmentor in eval mode, already fused; its layers are used, not copied.
        plain: use only operators that every runtime has (no NMS and no RoIAlign operator, rank 5 at most).

    Attributes:
        task: key of `manifest.OUTPUTS`.
        mask_kind: `'roi'`, a mask covers its box, in probabilities; `'image'`, it covers the padded image on a coarser
            grid, in logits, for those are resized; else None.
        postprocess: thresholds that the predictor applies, ready for JSON.
        divisor: height and width of the batch are multiples of it, in pixels.
        thresholds: whether the network decides by a threshold on its way, so that rounding can flip a pixel.
    """

    task: str
    mask_kind: str | None = None
    divisor = 32
    thresholds = False

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__()
        self.model = model
        self.plain = plain
        self.postprocess: dict = {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return OUTPUTS[self.task]

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """One batch.

        Args:
            images: `(B, 3, H, W)`, normalised, RGB, padded at the right and at the bottom.
            img_hw: `(B, 2)` float32, height and width of each image without the padding, in pixels.

        Returns:
            tensors in the order of `outputs`; detections by falling score, padded with zeros beyond `count`. Boxes
            `(B, K, 4)` in pixels of the batch, scores and labels `(B, K)`, masks `(B, K, h, w)`, count `(B,)`, seg
            `(B, H, W)`. Labels, counts and seg are int32.
        """
        raise NotImplementedError
