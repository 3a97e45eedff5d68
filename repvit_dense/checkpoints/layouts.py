"""Checkpoints: recognise whose weights they are, convert them, load them strictly.

RepViT weights circulate in the authors' layout (`official`), in timm's (`timm`; `timm_features` where `features_only`
flattened the stages) and in this package's (`ours`), each before or after fusing. All names are in the tables below;
everything else works on them. A classifier keeps timm's names (`head.head`, `head.head_dist`) in our layout. Files are
read by `repvit_dense.checkpoints.reading`.
"""

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

# A module, not its names: importing the backbones first comes here, through mmengine, before they are defined.
from repvit_dense.backbones import peer, repvit
from repvit_dense.checkpoints.reading import CheckpointError, read

# --- layouts ---

LAYOUTS = ('ours', 'official', 'timm', 'timm_features')

# Names of modules, ours, official, timm. `*` is a convolution with its batch norm, and also what fusing leaves of both.
_STEM = (('stem.conv1*', 'features.0.0', 'stem.conv1'), ('stem.conv2*', 'features.0.2', 'stem.conv2'))
_BLOCK = (
    ('token_mixer.conv_bn*', 'token_mixer.0.conv', 'token_mixer.conv'),
    ('token_mixer.conv1x1', 'token_mixer.0.conv1', 'token_mixer.conv1'),
    ('token_mixer.bn', 'token_mixer.0.bn', 'token_mixer.bn'),
    ('token_mixer', 'token_mixer.0', 'token_mixer'),  # fused
    ('se.fc1', 'token_mixer.1.fc1', 'se.fc1'),
    ('se.fc2', 'token_mixer.1.fc2', 'se.fc2'),
    ('channel_mixer.conv1*', 'channel_mixer.m.0', 'channel_mixer.conv1'),
    ('channel_mixer.conv2*', 'channel_mixer.m.2', 'channel_mixer.conv2'),
)
_DOWNSAMPLE = (
    ('spatial*', 'token_mixer.0', 'spatial_downsample'),
    ('channel*', 'token_mixer.2', 'channel_downsample'),
    ('channel_mixer.conv1*', 'channel_mixer.m.0', 'ffn.conv1'),
    ('channel_mixer.conv2*', 'channel_mixer.m.2', 'ffn.conv2'),
)
_HEAD = (
    ('head.head.bn', 'classifier.classifier.bn', 'head.head.bn'),
    ('head.head.l', 'classifier.classifier.l', 'head.head.l'),
    ('head.head_dist.bn', 'classifier.classifier_dist.bn', 'head.head_dist.bn'),
    ('head.head_dist.l', 'classifier.classifier_dist.l', 'head.head_dist.l'),
    ('head', 'classifier', 'head'),  # fused, both in one
)
_BODY = re.compile(r'(features\.|stem\.|stages[._])')
_LEGACY = re.compile(r'token_mixer\.(0\.)?conv1\.(c|bn)\.')
# What may lie beside a classification network without making it a detector or segmentor.
_BESIDE = {'head', 'classifier', 'fc', 'data_preprocessor', 'steps', 'n_averaged'}
_AVERAGED = ('model_ema', 'state_dict_ema', 'ema_state_dict')


@dataclass(frozen=True)
class Layout:
    """What a state dict of RepViT looks like.

    Attributes:
        name: one of `LAYOUTS`.
        prefix: in front of every key of the network, `backbone.` for example.
        fused: whether it was re-parameterised.
        depths, widths: of the stages it holds.
    """

    name: str
    prefix: str
    fused: bool
    depths: tuple[int, ...]
    widths: tuple[int, ...]

    def __str__(self) -> str:
        numbers = f'depths {" ".join(map(str, self.depths))}, widths {" ".join(map(str, self.widths))}'
        for arch, row in repvit.ARCHS.items():
            if (row['depths'], row['embed_dims']) == (self.depths, self.widths):
                return f'{arch} ({numbers})'
        return numbers


def detect_layout(state_dict: Mapping) -> Layout:
    """Recognise RepViT weights: a state dict or a checkpoint with one in it, alone or inside a larger network.

    Raises:
        CheckpointError: they are timm's older `repvit_m1` to `_m3`, or of another architecture.
    """
    state_dict, _ = _weights(state_dict)
    if any(_LEGACY.search(key) for key in state_dict):
        raise CheckpointError(
            "timm's older repvit_m1, _m2 or _m3: another architecture under the same name (its 1x1 branch has a batch "
            f'norm of its own); take weights of one of {", ".join(repvit.ARCHS)}'
        )
    found = []
    for name, stem in zip(LAYOUTS, _rows(())[0], strict=True):
        pattern = re.compile(rf'(.*\.)?{re.escape(stem)}(\.conv|\.c)?\.weight')
        found += [_examine(state_dict, name, match[1] or '') for match in map(pattern.fullmatch, state_dict) if match]
    # Plain weights before averaged copies beside them (`ema.module.`).
    strange, layout = min(found, key=lambda f: (f[0], 'ema' in f[1].prefix, len(f[1].prefix)), default=(1, None))
    if strange:
        keys = ', '.join(list(state_dict)[:3])
        raise CheckpointError(f'weights of another architecture than RepViT, with keys such as {keys}')
    return layout


def convert(state_dict: Mapping, to: str) -> dict[str, Tensor]:
    """Re-key RepViT weights losslessly, fused or not, classifier included.

    Args:
        state_dict: in any layout, or a checkpoint with one in it. A prefix stays, and so do keys of other parts of a
            larger network.
        to: one of `LAYOUTS`. In the official layout a network without its last stages does not always tell whether its
            last block is the pre-downsample one; converting such a one back takes it for a block of the body.

    Raises:
        CheckpointError: not RepViT weights.
    """
    state_dict, _ = _weights(state_dict)
    layout = detect_layout(state_dict)
    return {(layout.prefix + key if inside else key): value for inside, key, value in _renamed(state_dict, layout, to)}


def _renamed(state_dict, layout: Layout, to: str):
    """Yields (whether it belongs to the network, its new name without the prefix or else the old one, tensor)."""
    names = _names(layout.depths, layout.name, to)
    for key, value in state_dict.items():
        module, _, parameter = key.removeprefix(layout.prefix).rpartition('.')
        inside = key.startswith(layout.prefix) and module in names
        yield inside, f'{names[module]}.{parameter}' if inside else key, value


def _names(depths, source: str, to: str) -> dict[str, str]:
    i, j = LAYOUTS.index(source), LAYOUTS.index(to)
    return {row[i]: row[j] for row in _rows(depths)}


@functools.lru_cache(maxsize=16)
def _rows(depths: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Every module under its four names. The block that ends a stage is named whether the network has it or not."""
    rows = [*_place('', '', '', _STEM), *_place('', '', '', _HEAD)]
    n = 1  # official layout: one index for all blocks, 0 is the stem
    for s, depth in enumerate(depths):
        stage = f'stages.{s}.'
        if s:
            rows += _place(f'{stage}downsample.', f'features.{n}.', f'{stage}downsample.', _DOWNSAMPLE)
            n += 1
        for b in range(depth):
            rows += _place(f'{stage}blocks.{b}.', f'features.{n}.', f'{stage}blocks.{b}.', _BLOCK)
            n += 1
        rows += _place(f'{stage}pre_downsample.', f'features.{n}.', f'stages.{s + 1}.downsample.pre_block.', _BLOCK)
        n += 1
    return rows


def _place(ours: str, official: str, timm: str, parts) -> list[tuple[str, ...]]:
    rows = []
    for a, b, c in parts:
        names = (ours + a.rstrip('*'), official + b, timm + c)
        rows.append(names)
        if a.endswith('*'):
            for suffixes in (('.conv', '.c', '.c'), ('.bn', '.bn', '.bn')):
                rows.append(tuple(name + suffix for name, suffix in zip(names, suffixes, strict=True)))
    return [(*row, re.sub(r'^stages\.', 'stages_', row[2])) for row in rows]


def _examine(state_dict, name: str, prefix: str) -> tuple[int, Layout]:
    """How many keys of the body this layout cannot explain, and the layout."""
    state = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    depths = _official_depths(state) if name == 'official' else _depths(state)
    names = _names(depths, name, 'ours')
    strange = sum(bool(_BODY.match(key)) and key.rpartition('.')[0] not in names for key in state) + (not depths)
    ours = {f'{names[module]}.weight': state[f'{module}.weight'] for module in names if f'{module}.weight' in state}
    widths = []
    for s in range(len(depths)):
        mixer = f'stages.{s}.blocks.0.token_mixer'
        kernel = ours.get(f'{mixer}.weight', ours.get(f'{mixer}.conv_bn.conv.weight', torch.empty(0)))
        widths.append(*kernel.shape[:1] or (0,))
    return strange, Layout(name, prefix, 'stem.conv1.weight' in ours, depths, tuple(widths))


def _depths(state) -> tuple[int, ...]:
    places = {m.groups() for m in (re.match(r'stages[._](\d+)\.blocks\.(\d+)\.', key) for key in state) if m}
    count = Counter(stage for stage, _ in places)
    return tuple(count[str(s)] for s in range(len(count)))


def _official_depths(state) -> tuple[int, ...]:
    """Downsampling blocks, the only ones that widen by a second convolution, part the blocks into stages."""
    blocks = {m[1] for m in (re.match(r'features\.(\d+)\.', key) for key in state) if m} - {'0'}
    down = sorted({int(m[1]) for m in (re.match(r'features\.(\d+)\.token_mixer\.2\.', key) for key in state) if m})
    depths = [end - start - 2 for start, end in pairwise([0, *down])]  # less the pre-downsample block
    depths.append(len(blocks) - (down[-1] if down else 0))
    if len(depths) < 4:
        # The body alternates with and without squeeze-and-excite; a pre-downsample block never has it.
        last = f'features.{len(blocks)}.token_mixer.1.'
        depths[-1] -= depths[-1] % 2 == 1 and not any(key.startswith(last) for key in state)
    return tuple(depths)


# --- loading ---


def load_checkpoint(module: nn.Module, source, map_location='cpu') -> dict:
    """Load weights into a backbone, a whole detector or segmentor, or any other module: all of it, or nothing.

    Args:
        module: a `RepViT` takes classification or backbone weights in any layout; a network with a RepViT as its
            `backbone` takes checkpoints of this package and of the authors; a `Peer` takes ImageNet weights as they
            are published, or its own; anything else its own, in any wrapper.
        source: what `read` takes, or an already read checkpoint.
        map_location: where the file's tensors go first; the module keeps its dtype and device.

    Returns:
        the whole checkpoint, for a runner to resume from.

    Raises:
        CheckpointError: it cannot be read, or does not fit exactly. The module is unchanged.
    """
    already_read = isinstance(source, Mapping)
    checkpoint, where = (source, 'these weights') if already_read else (read(source, map_location), str(source))
    while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.module
    # A state dict shares its memory with the module.
    wanted = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    try:
        state, averaged = _weights(checkpoint)
        given, what, unused = _select(module, state)
        # A batch norm's counter changes nothing at a fixed momentum, and old files lack it.
        given |= {k: v for k, v in wanted.items() if k.endswith('num_batches_tracked') and k not in given}
        _check(module, given, wanted)
    except CheckpointError as error:
        raise CheckpointError(str(error) if already_read else f'{where}: {error}') from None
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(given[key])
    print_log(f'{where}: {what}, {len(wanted)} tensors loaded', logger='current')
    unused += [f'averaged weights ({key})' for key in averaged]
    if unused:
        print_log(f'{where}: not used, as expected: {", ".join(unused)}', logger='current')
    return checkpoint


def _weights(checkpoint: Mapping) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a checkpoint, and the names of averaged ones beside it."""
    averaged = [key for key in _AVERAGED if isinstance(checkpoint.get(key), Mapping)]
    for key in ('state_dict', 'model', *averaged, None):
        content = checkpoint if key is None else checkpoint.get(key)
        if isinstance(content, Mapping):
            state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if state:
                return state, [other for other in averaged if other != key]
    raise CheckpointError(f'no weights in it; its keys are {", ".join(map(str, list(checkpoint)[:5])) or "none"}')


def _select(module: nn.Module, state: dict) -> tuple[dict, str, list[str]]:
    """Of the file's tensors those for this module under its own names, what they are, and what is left out."""
    if isinstance(module, peer.Peer):
        return _select_for_peer(module, state)
    whole = isinstance(getattr(module, 'backbone', None), repvit.RepViT)
    if not whole and not isinstance(module, repvit.RepViT):
        return _strip_prefix(state, module.state_dict()), 'weights', []
    layout = detect_layout(state)
    inside, outside = {}, {}
    wrapper, _, _ = layout.prefix.rpartition('backbone.')  # beside `module.backbone.` there is `module.neck.`
    for is_inside, key, value in _renamed(state, layout, 'ours'):
        if is_inside:
            inside[key] = value
        else:
            outside[key.removeprefix(wrapper)] = value
    parts = {key.removeprefix(layout.prefix).partition('.')[0] for key in outside} - _BESIDE
    if whole and not (layout.prefix.endswith('backbone.') and parts):
        raise CheckpointError(
            f'these are pretrained backbone weights ({layout.name} layout, {layout}), the model is a whole '
            f"{type(module).__name__}: give them as backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
    if parts and not whole:
        raise CheckpointError(
            f'a whole detector or segmentor (with {", ".join(sorted(parts)[:5])} beside the backbone), not pretrained '
            'backbone weights: give it to `test` as its CHECKPOINT, or to training as load_from or --resume'
        )
    backbone = module.backbone if whole else module
    _require_same_variant(layout, backbone)
    if whole and layout.name == 'official':
        _require_same_tap(parts, backbone)
    unused = _pop_unused(inside, backbone)
    given = {f'backbone.{key}': value for key, value in inside.items()} | outside if whole else inside
    what = f'{layout.name} layout of RepViT {layout}{", fused" if layout.fused else ""}'
    return given, what, [f'{reason} ({count} tensors)' for reason, count in unused.items()]


def _select_for_peer(module: 'peer.Peer', state: dict) -> tuple[dict, str, list[str]]:
    wanted, net = module.state_dict(), module.net.state_dict()
    own = _strip_prefix(state, wanted)
    if wanted.keys() & own.keys():
        return own, f'weights of a {type(module).__name__}', []
    if layout := getattr(module, 'layout', None):  # where the ladder ends, a RepViT
        state = convert(state, layout)
    state, unused = module.from_published(_strip_prefix(state, net))
    if not state.keys() & net.keys():
        keys = ', '.join(list(state)[:3])
        raise CheckpointError(f'weights of another architecture than {module.name}, with keys such as {keys}')
    for key in net:
        if key in state and net[key].shape != state[key].shape:
            raise CheckpointError(
                f'weights of another variant than {module.name}: {key} is {tuple(state[key].shape)} in the file and '
                f'{tuple(net[key].shape)} in the model; take the weights of this variant'
            )
    given = {f'net.{key}': value for key, value in state.items()}
    # What was never published with the network, norms of the outputs or a pyramid, starts from scratch.
    given |= {key: value for key, value in wanted.items() if not key.startswith('net.')}
    unused = [f'classifier and what else this backbone does not build ({len(unused)} tensors)'] if unused else []
    return given, f'ImageNet weights of {module.name}', unused


def _require_same_variant(layout: Layout, backbone: 'repvit.RepViT') -> None:
    own = detect_layout(backbone.state_dict())
    built = len(own.depths)  # later stages are not built where nobody asked for them
    if (layout.depths[:built], layout.widths[:built]) != (own.depths, own.widths):
        raise CheckpointError(f'these weights look like {layout}, the model is {own}; take the weights of this variant')
    if layout.fused and not own.fused:
        raise CheckpointError(
            'these weights are fused, the model is not: build it with deploy=True, or take the training checkpoint'
        )
    if own.fused and not layout.fused:
        raise CheckpointError('the model is fused, these weights are not: load them before switch_to_deploy()')


def _require_same_tap(parts: set[str], backbone: 'repvit.RepViT') -> None:
    """The authors' segmentors were trained on other features than their detectors; every name and shape is the same."""
    tap = 'stage_end' if 'decode_head' in parts else 'stage_body'
    if backbone.tap != tap:
        kind = 'segmentor' if tap == 'stage_end' else 'detector'
        raise CheckpointError(
            f"this {kind} of the authors was trained with tap='{tap}', the "
            f"model has tap='{backbone.tap}' and would silently do worse: --cfg-options model.backbone.tap={tap}"
        )


def _pop_unused(inside: dict, backbone: 'repvit.RepViT') -> Counter:
    """Take out the classifier and what this backbone does not build; counts by reason."""
    wanted, last = backbone.state_dict(), len(backbone.stages) - 1
    ends_in_body = isinstance(backbone.stages[last].pre_downsample, nn.Identity)
    unused = Counter()
    for key in [key for key in inside if key not in wanted]:
        stage = re.match(r'stages\.(\d+)\.', key)
        reason = None
        if key.startswith('head.'):
            reason = 'classifier head'
        elif stage and int(stage[1]) > last:
            reason = f'stage {stage[1]}'
        elif ends_in_body and key.startswith(f'stages.{last}.pre_downsample.'):
            reason = f'last block of stage {last}'
        if reason:
            unused[reason] += 1
            del inside[key]
    return unused


def _strip_prefix(state: dict, wanted: dict) -> dict:
    """Without the prefix, if any, under which most of the wanted names are found."""
    first = f'.{next(iter(wanted), "")}'
    prefixes = {''} | {key[: 1 - len(first)] for key in state if f'.{key}'.endswith(first)}
    best = max(prefixes, key=lambda p: (sum(p + name in state for name in wanted), -len(p)))
    return {key.removeprefix(best): value for key, value in state.items()}


def _check(module: nn.Module, given: dict, wanted: dict) -> None:
    shapes = {k: (given[k].shape, wanted[k].shape) for k in wanted if k in given and given[k].shape != wanted[k].shape}
    problems = [f'{key} is missing' for key in wanted if key not in given]
    problems += [f'{key} has no place in the model' for key in given if key not in wanted]
    if shapes and not problems and (classes := _class_counts(module, shapes.values())):
        raise CheckpointError(
            f'trained for {classes[0]} classes, the model has {classes[1]}: only classification layers differ '
            f'({", ".join(list(shapes)[:3])}). Use a config of {classes[0]} classes, or train from backbone weights'
        )
    problems += [f'{key} is {tuple(a)} in the file and {tuple(b)} in the model' for key, (a, b) in shapes.items()]
    if problems:
        more = f', and {len(problems) - 5} more ({len(problems)} in all)' if len(problems) > 5 else ''
        name = module.name if isinstance(module, peer.Peer) else f'a {type(module).__name__}'
        raise CheckpointError(f'does not fit {name}: {"; ".join(problems[:5])}{more}')


def _class_counts(module: nn.Module, shapes) -> tuple[int, int] | None:
    """Class counts of file and model, if they alone explain all shapes: `per_class * (classes + background)` rows."""
    if any(a[1:] != b[1:] or not a or not b for a, b in shapes):
        return None
    counts = {m.num_classes for m in module.modules() if isinstance(getattr(m, 'num_classes', None), int)}
    for own in sorted(counts - {0}, reverse=True):
        options = []  # per layer: class count of the file -> whether that takes a background class
        for (theirs, *_), (ours, *_) in shapes:
            per_class = {extra: ours // (own + extra) for extra in (1, 0) if ours and ours % (own + extra) == 0}
            options.append({theirs // n - extra: extra for extra, n in per_class.items() if theirs % n == 0})
        if common := set.intersection(*map(set, options)):
            return min(common, key=lambda classes: sum(option[classes] for option in options)), own
    return None


@WEIGHT_INITIALIZERS.register_module()
class DensePretrainedInit:
    """Initialise a backbone from weights in any layout; what `init_cfg=dict(type='Pretrained')` of ours stands for.

    Args:
        checkpoint: what `read` takes.
    """

    def __init__(self, checkpoint: str):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        load_checkpoint(module, self.checkpoint)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'{type(self).__name__}: load from {self.checkpoint}')
