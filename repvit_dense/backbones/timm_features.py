"""Any hierarchical network of timm as a dense backbone."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from mmengine.registry import MODELS
from torch import Tensor, nn

from repvit_dense import catalogue_timm
from repvit_dense.backbones.base import ALL_STAGES, Peer
from repvit_dense.screen import say

COUNTER = 'num_batches_tracked'


@MODELS.register_module()
class DenseTimm(Peer):
    """A network of timm with features of strides 4, 8, 16 and 32, at any image size from 64 pixels on.

    Modules that the features do not need (the classifier, later stages) are removed. Attention that timm ties to one
    image size is adapted to any size, and blocks with branches or with a norm behind a convolution are fused by
    `reparameterize_model`; see `_timm_adapted` and `_timm_fused` in this folder. Images are padded to a multiple of 32
    pixels for networks that round odd sizes down, or of 32 windows for those whose windows have to fill the map.

    Args:
        model_name: a name that `timm.create_model` accepts, without a tag of weights. No weights are downloaded.
        out_indices, frozen_stages, norm_eval, init_cfg: see `DenseBackbone`.
        with_cp: recompute blocks in the backward pass instead of storing their activations. timm does this, and a live
            batch norm then updates its running statistics twice per step.
        drop_path_rate: largest stochastic-depth rate; the rates grow over the blocks.
        out_norm: see `Peer`.
        kwargs: arguments of timm's constructor.

    Raises:
        ValueError: the model is unknown or has no features of these strides, or an argument is out of range.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = ALL_STAGES,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        out_norm: str | None = None,
        init_cfg: Mapping | None = None,
        **kwargs,
    ):
        super().__init__(
            model_name,
            out_norm,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        from repvit_dense.backbones._timm_adapted import window_multiple

        net = create(model_name, drop_path_rate=drop_path_rate, **kwargs)
        levels = catalogue_timm.levels(net, model_name)
        net.prune_intermediate_layers(levels[: self.out_indices[-1] + 1], prune_norm=True, prune_head=True)
        net.set_grad_checkpointing(with_cp)
        infos = [net.feature_info[level] for level in levels]
        parts = _parts(net, [info['module'] for info in infos])
        self.set_net(net, [info['num_chs'] for info in infos], parts)
        self.multiple = max(window_multiple(net), 32 if _rounds_down(net) else 4)
        self.kwargs, self.levels = kwargs, [levels[i] for i in self.out_indices]

    def train(self, mode: bool = True) -> 'DenseTimm':
        from repvit_dense.backbones._timm_adapted import restore_activations

        restore_activations(self.net)  # with `sync_bn`, the norms were converted since the network was built
        return super().train(mode)

    def _features(self, x: Tensor) -> list[Tensor]:
        return self.net.forward_intermediates(x, indices=self.levels, output_fmt='NCHW', intermediates_only=True)

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return convert_from_timm(self.net, self.name, self.kwargs, state)


def create(model_name: str, **kwargs) -> nn.Module:
    """Return timm's network with random weights, without classifier, for any image size. Raises ValueError."""
    import timm  # takes two seconds, which commands that need no network of timm avoid

    from repvit_dense.backbones._timm_adapted import adapt

    catalogue_timm.published(model_name)
    catalogue_timm.check_fit(model_name)
    options = {'num_classes': 0, **catalogue_timm.options(model_name), **kwargs}
    try:
        return adapt(timm.create_model(model_name, pretrained=False, **options))
    except TypeError as error:
        if 'drop_path_rate' not in str(error) or kwargs.get('drop_path_rate'):
            raise ValueError(f"timm's {model_name}: {error}") from error
        return create(model_name, **{key: value for key, value in kwargs.items() if key != 'drop_path_rate'})


def convert_from_timm(
    net: nn.Module, model_name: str, kwargs: Mapping, state: dict
) -> tuple[dict[str, Tensor], list[str]]:
    """Convert timm's weights, or the authors' if timm can convert them; see `Peer.from_published`."""
    import timm

    whole = timm.create_model(model_name, pretrained=False, **kwargs)
    convert = getattr(sys.modules[type(whole).__module__], 'checkpoint_filter_fn', None)
    if convert:
        # Weights of another network may make it fail. Loading then names the tensors that do not fit.
        with suppress(AttributeError, IndexError, KeyError, RuntimeError, ValueError):
            state = convert(dict(state), whole)
    wanted, known = net.state_dict().keys(), whole.state_dict().keys()
    if not known & state.keys():
        state = _rename_in_order(state, whole.state_dict()) or state
    unused = [key for key in state if key not in wanted and key in known]
    return {key: value for key, value in state.items() if key not in unused}, unused


def _rename_in_order(state: Mapping, parameters: Mapping) -> dict[str, Tensor] | None:
    """Return the tensors under the names of the network that has the same kinds and shapes in the same order, or None.

    The kind is the last part of the name: weight, bias, running_mean. Counters of batches, which old files lack, are
    left out.
    """
    file, model = ({k: v for k, v in tensors.items() if not k.endswith(COUNTER)} for tensors in (state, parameters))
    kinds = ([(key.rpartition('.')[2], value.shape) for key, value in part.items()] for part in (file, model))
    if next(kinds) != next(kinds):
        return None
    say(f'weights with other names, taken in order: {len(model)} tensors, each of the same kind and shape')
    return dict(zip(model, file.values(), strict=True))


def _parts(net: nn.Module, ends: Sequence[str]) -> dict[str, int]:
    """Return the stage, 1 to 4, of each part of the network; 0 is the stem. timm registers parts in running order.

    Args:
        net: the pruned network.
        ends: name of the module that ends each stage.
    """
    if not hasattr(net, ends[0].partition('.')[0]):  # MViTv2 states a name that it does not have
        ends = [end.replace('block.', 'stages.') for end in ends]
    body = ends[0].partition('.')[0]
    parts, stage = {name: 0 for name, _ in net.named_parameters(recurse=False)}, 0
    for name, child in net.named_children():
        is_body = any(end.startswith(f'{name}.') for end in ends)
        inside = [f'{name}.{inner}' for inner, _ in child.named_children()] if is_body else [name]
        for part in inside:
            stage += name == body and stage == 0
            parts[part] = stage
            stage += part in ends[:-1]
    return parts


def _rounds_down(net: nn.Module) -> bool:
    """Return whether a convolution or pooling with stride 2 makes fewer than `ceil(n / 2)` out of n positions."""
    first = lambda size: size[0] if isinstance(size, tuple | list) else size  # noqa: E731
    for layer in net.modules():
        if type(layer) in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d) and first(layer.stride) == 2:
            reach = first(getattr(layer, 'dilation', 1)) * (first(layer.kernel_size) - 1)
            if 2 * first(layer.padding) + getattr(layer, 'ceil_mode', False) < reach:
                return True
    return False
