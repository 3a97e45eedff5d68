"""The interface of the export graphs: from normalised images to final results, in tensors of fixed size."""

from torch import Tensor, nn

from repvit_dense.artifact.rules import OUTPUTS


class Graph(nn.Module):
    """A trained model as one function of tensors, without data-dependent control flow.

    Args:
        model: a fused detector or segmentor in eval mode; its layers are used, not copied.
        plain: use only operators that every runtime has: no NMS or RoIAlign operator, tensors of rank 5 at most.

    Attributes:
        task: key of `rules.OUTPUTS`.
        mask_kind: `'roi'` for masks that cover their boxes, as probabilities; `'image'` for masks that cover the
            padded image at a lower resolution, as logits, which are resized later; None without masks.
        postprocess: thresholds that the predictor applies, ready for JSON.
        divisor: height and width of the batch are multiples of it, in pixels.
        thresholds: whether layers inside the network compare with a threshold, so that rounding can flip a pixel.
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
        """Names of the tensors that `forward` returns."""
        return OUTPUTS[self.task]

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Run one batch.

        Args:
            images: `(B, 3, H, W)`, normalised, RGB, padded at the right and at the bottom.
            img_hw: `(B, 2)` float32, height and width of each image without padding, in pixels.

        Returns:
            Tensors in the order of `outputs`. Detections are sorted by falling score and padded with zeros beyond
            `count`. Boxes are `(B, K, 4)` in pixels of the batch, scores and labels `(B, K)`, masks `(B, K, h, w)`,
            count `(B,)`, seg `(B, H, W)`. Labels, count and seg are int32.
        """
        raise NotImplementedError
