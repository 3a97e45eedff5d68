"""Rows of the catalogue for all networks of timm, read from timm's own settings.

timm, which imports PyTorch, is imported by the functions, because names of the catalogue do not need it.
"""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from repvit_dense.catalogue_rows import BACKBONES, HUB, STRIDES, Backbone
from repvit_dense.errors import nearest

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

PREFIX = 'timm/'
PATCH = 16  # pixels on a side
# Arguments of the networks in a module of timm without which they accept one image size only.
OPTIONS = {
    'timm.models.deit': {'dynamic_img_size': True},
    'timm.models.eva': {'dynamic_img_size': True},
    'timm.models.swin_transformer': {'strict_img_size': False},
    'timm.models.swin_transformer_v2': {'strict_img_size': False},
    'timm.models.swin_transformer_v2_cr': {'strict_img_size': False},
    'timm.models.vision_transformer': {'dynamic_img_size': True},
}
SHOWN = 6  # names in a message
# Names of networks, as regular expressions, that cannot be a backbone though they have features of all strides.
UNFIT = {
    r'.*bot(net|next).*|lambda_resnet26rpt.*|.*coat.*|gcvit_.*|hiera_.*': 'accepts images of one size only',
    r'mvitv2_.*_cls': 'has a class token among the positions of its maps',
    r'inception_(v3|v4|resnet_v2)|legacy_xception': 'does not pad, so its features are smaller than the image by more '
    'than their strides',
}
UNKNOWN = 'unknown'
# timm's names of licences -> SPDX. Others become LicenseRef-NAME.
LICENCES = {
    UNKNOWN: UNKNOWN,
    'apache-2.0': 'Apache-2.0',
    'mit': 'MIT',
    'bsd-3-clause': 'BSD-3-Clause',
    'cc-by-4.0': 'CC-BY-4.0',
    'cc-by-nc-4.0': 'CC-BY-NC-4.0',
    'cvnets-license': 'LicenseRef-apple-cvnets',
    'fastvit-license': 'LicenseRef-apple-fastvit',
    'mobileone-license': 'LicenseRef-apple-mobileone',
}


def names(pattern: str = '*') -> list[str]:
    """Return the names of timm's networks, with the prefix, that match a pattern."""
    import timm

    return fnmatch.filter([PREFIX + name for name in timm.list_models()], pattern)


def weights(pattern: str = '*') -> list[str]:
    """Return the names of timm's weights, `timm/NAME.TAG`, that match a pattern."""
    import timm

    return fnmatch.filter([PREFIX + name for name in timm.list_pretrained()], pattern)


def default_weights(name: str) -> str:
    """Return the weights that `timm/NAME` or `timm/NAME.TAG` starts from; '' if there are none."""
    cfg = published(name)
    tagged = f'{PREFIX}{cfg.architecture}.{cfg.tag}'
    return tagged if _address(cfg) else ''


@functools.cache
def row(name: str) -> Backbone:
    """Return the row of `timm/NAME` or `timm/NAME.TAG`.

    The network is built without values, for its channels and the names of its parameters.

    Raises:
        ValueError: timm has no such network or weights, or the network lacks features of some stride.
    """
    import timm
    import torch

    cfg = published(name)
    model = str(cfg.architecture)
    check_fit(model)
    with torch.device('meta'):
        net = timm.create_model(model, pretrained=False, num_classes=0, **options(model))
    if plain := is_plain(net):
        channels = tuple(net.embed_dim // part for part in (4, 2, 1, 1))
    else:
        channels = tuple(net.feature_info[level]['num_chs'] for level in levels(net, model))
    default = default_weights(name)
    return Backbone(
        name=name,
        type='DenseViT' if plain else 'DenseTimm',
        args={'model_name': model, **({} if plain else _out_norm(net))},
        channels=channels,
        licence=licence(default) if default else '',
        weights={tagged: url(tagged) for tagged in weights(f'{PREFIX}{model}.*')},
        default_weights=default,
        no_decay=_no_decay(net),
        mean=tuple(round(255 * value, 3) for value in cfg.mean),
        std=tuple(round(255 * value, 3) for value in cfg.std),
    )


def _out_norm(net: 'nn.Module') -> dict[str, str]:
    """Return the argument for a norm on each output if the network ends in one, because its stages do not normalise.

    A network of the catalogue in the same module of timm decides it.
    """
    import timm
    from torch import nn

    for known in BACKBONES.values():
        if (
            known.type == 'DenseTimm'
            and timm.model_entrypoint(known.args['model_name']).__module__ == type(net).__module__
        ):
            return {key: value for key, value in known.args.items() if key == 'out_norm'}
    parts = (net, getattr(net, 'head', None))
    return {'out_norm': 'LN'} if any(isinstance(getattr(part, 'norm', None), nn.LayerNorm) for part in parts) else {}


def published(name: str) -> 'PretrainedCfg':
    """Return timm's settings for `timm/NAME` or `timm/NAME.TAG`; without a tag, those of the default weights.

    Raises:
        ValueError: timm has no such network or weights; the message names similar ones.
    """
    import timm

    name = name.removeprefix(PREFIX)
    model, _, tag = name.partition('.')
    if not timm.is_model(model) or model in timm.models.get_deprecated_models():
        raise ValueError(f"timm has no network '{model}'{_similar(model)}")
    tags = timm.list_pretrained(f'{model}.*')
    if tag and name not in tags:
        listed = f'its weights: {", ".join(tags)}' if tags else 'timm has no weights for it'
        raise ValueError(f"{PREFIX}{model} has no weights '{tag}'; {listed}")
    cfg = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()  # a network of the user's has none
    return dataclasses.replace(cfg, architecture=model)


def _similar(model: str) -> str:
    """Return the end of a message about an unknown network."""
    import timm

    if any(sign in model for sign in '*?['):
        matches = names(PREFIX + model)
        listed = ', '.join(matches[:SHOWN]) + (f' and {len(matches) - SHOWN} more' if len(matches) > SHOWN else '')
        return f'; a pattern names no single network, take one of those that match: {listed or "none"}'
    current = timm.models.get_deprecated_models().get(model)
    if current:
        return f" any more; it is '{PREFIX}{current}' now"
    return nearest(model.lower(), timm.list_models()) or f"; `repvit-dense list backbones '{PREFIX}*'` lists all"


def url(name: str) -> str:
    """Return the address of weights, `timm/NAME.TAG`.

    Raises:
        ValueError: timm has no such weights.
    """
    address = _address(published(name))
    if not address:
        raise ValueError(f'timm has no weights for {name}')
    return address


def _address(cfg: 'PretrainedCfg') -> str:
    if cfg.hf_hub_id:
        return f'{HUB}{cfg.hf_hub_id}/resolve/main/{cfg.hf_hub_filename or "model.safetensors"}'
    return cfg.url if isinstance(cfg.url, str) else ''


def licence(name: str) -> str:
    """Return the SPDX name of the licence of weights, `timm/NAME.TAG`; 'unknown' if timm states none."""
    stated = published(name).license or UNKNOWN
    return LICENCES.get(stated, f'LicenseRef-{stated}')


def options(model: str) -> dict[str, Any]:
    """Return the arguments without which a network accepts one image size only."""
    import timm

    return OPTIONS.get(timm.model_entrypoint(model).__module__, {})


def check_fit(model: str) -> None:
    """Refuse a network that cannot be a backbone though it has features of all strides.

    Raises:
        ValueError: names the reason.
    """
    reason = next((reason for names, reason in UNFIT.items() if re.fullmatch(names, model)), None)
    if reason:
        raise ValueError(f"timm's {model} {reason}, and cannot be a backbone")


def is_plain(net: 'nn.Module') -> bool:
    """Return whether a network is a transformer on patches of 16 pixels, from whose map `DenseViT` makes a pyramid."""
    return getattr(net, 'dynamic_img_size', False) and {info['reduction'] for info in net.feature_info} == {PATCH}


def levels(net: 'nn.Module', model_name: str) -> list[int]:
    """Return the indices, among timm's features, of the last one of each stride.

    Raises:
        ValueError: a stride is missing.
    """
    if not hasattr(net, 'forward_intermediates'):
        raise ValueError(f"timm's {model_name} gives no intermediate features, and cannot be a backbone")
    by_stride = {info['reduction']: level for level, info in enumerate(net.feature_info)}
    missing = [stride for stride in STRIDES if stride not in by_stride]
    if missing:
        raise ValueError(
            f"timm's {model_name} has features of strides {_listed(by_stride)}; a backbone needs {_listed(STRIDES)}, "
            f'so {_listed(missing)} {"is" if len(missing) == 1 else "are"} missing'
        )
    return [by_stride[stride] for stride in STRIDES]


def _no_decay(net: 'nn.Module') -> tuple[str, ...]:
    """Return words that select, by name, the tables, tokens and layer scales of a network, and no other parameter.

    timm names the tables and tokens; layer scales have one dimension longer than 1. Parameters with one dimension are
    exempt from weight decay anyway.
    """
    listed = net.no_weight_decay() if hasattr(net, 'no_weight_decay') else ()
    parameters = {name: value for name, value in net.named_parameters() if value.ndim > 1}
    exempt = [
        name
        for name, value in parameters.items()
        if value.numel() == max(value.shape) or any(entry in (name, *name.split('.')) for entry in listed)
    ]
    rest = [name for name in parameters if name not in exempt]
    words: dict[str, None] = {}
    for name in exempt:
        if not any(word in name for word in words):
            parts = [
                part for part in reversed(name.split('.')) if part not in ('weight', 'bias') and not part.isdigit()
            ]
            words[next((part for part in parts if not any(part in other for other in rest)), f'net.{name}')] = None
    return tuple(words)


def _listed(items: Iterable[object]) -> str:
    return ', '.join(map(str, items)) or 'none'
