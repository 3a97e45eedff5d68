"""Any hierarchical network of timm as a dense backbone."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from mmengine.registry import MODELS
from torch import Tensor, nn

from repvit_dense.backbones import catalogue
from repvit_dense.backbones.peer import STRIDES, Peer, check_options


@MODELS.register_module()
class TimmFeatures(Peer):
    """A network of timm with features of strides 4, 8, 16 and 32, at any image size from 64 pixels on.

    What the features do not need (the classifier, later stages) is not kept. Attention that timm binds to one image
    size is freed of it, and blocks with a `reparameterize()` take part in `reparameterize_model`; see
    `repvit_dense.backbones.timm_adapted`.

    Args:
        model_name: what `timm.create_model` takes, a tag of weights excepted. No weights are downloaded.
        out_indices, frozen_stages, norm_eval, out_norm, init_cfg: see `Peer`.
        with_cp: recompute blocks in the backward pass instead of storing their activations. As everywhere but in
            RepViT, a live batch norm then updates its running statistics twice per step.
        drop_path_rate: largest stochastic-depth rate, growing over the blocks.
        kwargs: for timm's constructor.

    Raises:
        ValueError: the model is unknown or has no features of these strides, or an argument is out of range.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        out_norm: str | None = None,
        init_cfg: Mapping | None = None,
        **kwargs,
    ):
        check_options(out_indices, frozen_stages, out_norm)
        net = create(model_name, drop_path_rate=drop_path_rate, **kwargs)
        levels = _levels(net, model_name)
        net.prune_intermediate_layers(levels[: out_indices[-1] + 1], prune_norm=True, prune_head=True)
        net.set_grad_checkpointing(with_cp)
        infos = [net.feature_info[level] for level in levels]
        parts = _parts(net, [info['module'] for info in infos])
        channels = [info['num_chs'] for info in infos]
        super().__init__(model_name, net, channels, parts, out_indices, frozen_stages, norm_eval, out_norm, init_cfg)
        self.kwargs, self.levels = kwargs, [levels[i] for i in out_indices]

    def train(self, mode: bool = True) -> 'TimmFeatures':
        from repvit_dense.backbones.timm_adapted import restore_activations

        restore_activations(self.net)  # training with `sync_bn` has converted the norms before it comes here
        return super().train(mode)

    def _features(self, x: Tensor) -> Sequence[Tensor]:
        return self.net.forward_intermediates(x, indices=self.levels, output_fmt='NCHW', intermediates_only=True)

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return from_timm(self.net, self.name, self.kwargs, state)


def create(model_name: str, **kwargs) -> nn.Module:
    """timm's network with random weights, without classifier, at home at any image size. Raises ValueError."""
    import timm  # two seconds, which a command that needs none of it does not wait for

    from repvit_dense.backbones.timm_adapted import OPTIONS, adapt

    if not timm.is_model(model_name):
        raise ValueError(
            f"timm has no model '{model_name}'; nearest: {catalogue.nearest(model_name, timm.list_models())}"
        )
    options = {'num_classes': 0, **OPTIONS.get(timm.model_entrypoint(model_name).__module__, {}), **kwargs}
    try:
        return adapt(timm.create_model(model_name, pretrained=False, **options))
    except TypeError as error:
        if 'drop_path_rate' not in str(error) or kwargs.get('drop_path_rate'):
            raise ValueError(f"timm's {model_name}: {error}") from error
        return create(model_name, **{key: value for key, value in kwargs.items() if key != 'drop_path_rate'})


def from_timm(net: nn.Module, model_name: str, kwargs: Mapping, state: dict) -> tuple[dict[str, Tensor], list[str]]:
    """`Peer.from_published` for timm's weights, and for the authors' where timm knows how to convert them."""
    import timm

    whole = timm.create_model(model_name, pretrained=False, **kwargs)
    convert = getattr(sys.modules[type(whole).__module__], 'checkpoint_filter_fn', None)
    if convert:
        # Weights of another network may trip it; what does not fit is named when it is loaded.
        with suppress(AttributeError, IndexError, KeyError, RuntimeError, ValueError):
            state = convert(dict(state), whole)
    wanted, known = net.state_dict().keys(), whole.state_dict().keys()
    unused = [key for key in state if key not in wanted and key in known]
    return {key: value for key, value in state.items() if key not in unused}, unused


def _levels(net: nn.Module, model_name: str) -> list[int]:
    """Numbers of the four levels among timm's features, the last one of each stride."""
    if not hasattr(net, 'forward_intermediates') or not hasattr(net, 'prune_intermediate_layers'):
        raise ValueError(f"timm's {model_name} gives no intermediate features, so it cannot be a backbone")
    by_stride = {info['reduction']: level for level, info in enumerate(net.feature_info)}
    if not set(STRIDES) <= by_stride.keys():
        has = ', '.join(map(str, by_stride))
        raise ValueError(f"timm's {model_name} has features of strides {has}; a backbone needs {STRIDES}")
    return [by_stride[stride] for stride in STRIDES]


def _parts(net: nn.Module, ends: Sequence[str]) -> dict[str, int]:
    """Which stage, 1 to 4, a part of the network belongs to; 0 is the stem. timm registers parts as they are run.

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
        inside = [f'{name}.{own}' for own, _ in child.named_children()] if is_body else [name]
        for part in inside:
            stage += name == body and stage == 0
            parts[part] = stage
            stage += part in ends[:-1]
    return parts
