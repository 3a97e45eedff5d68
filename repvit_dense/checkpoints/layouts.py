"""Recognise the layout of RepViT weights and convert them between layouts.

RepViT weights circulate in the authors' layout (`official`), in timm's (`timm`; `timm_features` for a `features_only`
network, whose stages are flattened) and in this package's (`repvit_dense`), each before and after fusing. The tables
below hold all module names. A classifier keeps timm's names (`head.head`, `head.head_dist`) in this package's layout.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from repvit_dense.checkpoints.constructors import OtherTensor
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.errors import shorten

LAYOUTS = ('repvit_dense', 'official', 'timm', 'timm_features')
# Limits on a state dict, far above those of any network here; they bound the time that a crafted one takes.
MOST_TENSORS, LONGEST_KEY, MOST_NETWORKS = 100_000, 500, 8

# Module names of this package, the authors and timm. `*` marks a convolution with its batch norm, which fusing turns
# into one module of the same name.
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
SWAPPED = 'ema_state_dict'
_AVERAGED = ('model_ema', 'state_dict_ema', SWAPPED)


@dataclass(frozen=True)
class Layout:
    """The layout and the variant of a RepViT state dict.

    Attributes:
        name: one of `LAYOUTS`.
        prefix: precedes every key of the network, `backbone.` for example.
        fused: whether the network was re-parameterised.
        depths, widths: number of blocks and channels of each stage in the state dict.
    """

    name: str
    prefix: str
    fused: bool
    depths: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def arch(self) -> str | None:
        """Return the name of the variant; None for one of other numbers."""
        from repvit_dense.backbones import repvit  # not above, see `reading`

        numbers = self.depths, self.widths
        return next((name for name, row in repvit.ARCHS.items() if (row['depths'], row['embed_dims']) == numbers), None)

    def __str__(self) -> str:
        numbers = f'depths {" ".join(map(str, self.depths))}, widths {" ".join(map(str, self.widths))}'
        return f'{self.arch} ({numbers})' if self.arch else numbers


def detect_layout(state_dict: Mapping) -> Layout:
    """Recognise RepViT weights: a state dict or a checkpoint that contains one, alone or inside a larger network.

    Raises:
        CheckpointError: the weights are timm's older `repvit_m1` to `_m3`, or of another architecture.
    """
    state_dict, _ = extract_state_dict(state_dict)
    if any(_LEGACY.search(key) for key in state_dict):
        from repvit_dense.backbones import repvit

        raise CheckpointError(
            "timm's older repvit_m1, _m2 or _m3: another architecture under the same name (its 1x1 branch has a batch "
            f'norm); take weights of one of {", ".join(repvit.ARCHS)}'
        )
    candidates = []
    for name, stem in zip(LAYOUTS, _rows(())[0], strict=True):
        pattern = re.compile(rf'(.*\.)?{re.escape(stem)}(\.conv|\.c)?\.weight')
        prefixes = {match[1] or '' for match in map(pattern.fullmatch, state_dict) if match}
        candidates += [_examine(state_dict, name, prefix) for prefix in sorted(prefixes, key=_rank)[:MOST_NETWORKS]]
    candidates.sort(key=lambda c: (c[0], *_rank(c[1].prefix)))
    unexplained, layout = candidates[0] if candidates else (1, None)
    if unexplained or layout is None:
        keys = ', '.join(list(state_dict)[:3])
        raise CheckpointError(f'weights of another architecture than RepViT, with keys such as {keys}')
    return layout


def _rank(prefix: str) -> tuple[bool, int]:
    """Return a sort key that prefers plain weights to averaged copies beside them (`ema.module.`)."""
    return 'ema' in prefix, len(prefix)


def convert(state_dict: Mapping, to: str) -> dict[str, Tensor]:
    """Rename the keys of RepViT weights, fused or not, including a classifier's; no tensor changes.

    Args:
        state_dict: weights in any layout, or a checkpoint that contains them. The prefix and the keys of other parts of
            a larger network stay as they are.
        to: one of `LAYOUTS`. The official layout does not always tell whether the last block of a network without its
            last stages is the pre-downsample block; converting from it takes such a block for one of the body.

    Raises:
        CheckpointError: the weights are not RepViT's.
    """
    state_dict, _ = extract_state_dict(state_dict)
    layout = detect_layout(state_dict)
    return {
        (layout.prefix + key if inside else key): value for inside, key, value in rename_keys(state_dict, layout, to)
    }


def extract_state_dict(checkpoint: Mapping) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict of a checkpoint, and descriptions of the other weights in it, which were not taken.

    `state_dict` and `model` precede weights that are averaged by their name; a mapping of tensors is itself a state
    dict. If mmengine averaged the weights, `state_dict` holds the average, and `ema_state_dict` the weights before it.

    Raises:
        CheckpointError: there are no weights.
    """
    averaged = [key for key in _AVERAGED if isinstance(checkpoint.get(key), Mapping)]
    for key in ('state_dict', 'model', *averaged, None):
        content = checkpoint if key is None else checkpoint.get(key)
        if isinstance(content, Mapping):
            state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor | OtherTensor)}
            if state:
                _require_plausible(state)
                others = [other for other in averaged if other != key]
                swapped = key == 'state_dict'
                kinds = [
                    ('weights before averaging' if swapped and other == SWAPPED else 'averaged weights')
                    for other in others
                ]
                return state, [f'{kind} ({other})' for kind, other in zip(kinds, others, strict=True)]
    keys = [shorten(key, 40) if isinstance(key, str) else type(key).__name__ for key in list(checkpoint)[:5]]
    raise CheckpointError(f'no weights in it; its keys are {", ".join(keys) or "none"}')


def _require_plausible(state: Mapping) -> None:
    """Refuse a state dict that no network here has."""
    if len(state) > MOST_TENSORS:
        raise CheckpointError(f'{len(state):,} tensors, more than any network here has')
    if longest := [key for key in state if len(key) > LONGEST_KEY]:
        raise CheckpointError(f'a name of {len(longest[0]):,} characters, longer than any here: {shorten(longest[0])}')
    others = {key: _unusual_kind(value) for key, value in state.items()}
    listed = [f'{key} is a {kind}' for key, kind in others.items() if kind]
    if listed:
        more = f', and {len(listed) - 3} more' if len(listed) > 3 else ''
        raise CheckpointError(
            f'{"; ".join(listed[:3])}{more}: only dense tensors of plain numbers are loaded; save those'
        )


def _unusual_kind(value: Tensor | OtherTensor) -> str | None:
    """Return the kind of a tensor that is not dense; None for one that is."""
    if isinstance(value, OtherTensor):
        return value.kind
    kinds = {'nested': value.is_nested, 'quantised': value.is_quantized, 'sparse': value.layout != torch.strided}
    return next((f'{name} tensor' for name, fits in kinds.items() if fits), None)


def rename_keys(state_dict: Mapping, layout: Layout, to: str) -> Iterator[tuple[bool, str, Tensor]]:
    """Yield every tensor as (is of the network, key, tensor); keys of the network are renamed and lose their prefix."""
    names = _names(layout.depths, layout.name, to)
    for key, value in state_dict.items():
        module, _, parameter = key.removeprefix(layout.prefix).rpartition('.')
        inside = key.startswith(layout.prefix) and module in names
        yield inside, f'{names[module]}.{parameter}' if inside else key, value


def _names(depths: tuple[int, ...], source: str, to: str) -> dict[str, str]:
    """Return the name in the layout `to` of each module name in the layout `source`."""
    i, j = LAYOUTS.index(source), LAYOUTS.index(to)
    return {row[i]: row[j] for row in _rows(depths)}


@functools.lru_cache(maxsize=16)
def _rows(depths: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Return the four names of every module, including each stage's last block even if a network lacks it."""
    rows = [*_module_names('', '', '', _STEM), *_module_names('', '', '', _HEAD)]
    n = 1  # the official layout numbers all blocks in one sequence; 0 is the stem
    for s, depth in enumerate(depths):
        stage = f'stages.{s}.'
        if s:
            rows += _module_names(f'{stage}downsample.', f'features.{n}.', f'{stage}downsample.', _DOWNSAMPLE)
            n += 1
        for b in range(depth):
            rows += _module_names(f'{stage}blocks.{b}.', f'features.{n}.', f'{stage}blocks.{b}.', _BLOCK)
            n += 1
        timm_name = f'stages.{s + 1}.downsample.pre_block.'
        rows += _module_names(f'{stage}pre_downsample.', f'features.{n}.', timm_name, _BLOCK)
        n += 1
    return rows


def _module_names(prefix: str, official_prefix: str, timm_prefix: str, table) -> list[tuple[str, ...]]:
    """Return the rows of a table with the prefixes of the three layouts, and timm's flattened names as a fourth."""
    rows = []
    for name, official, timm in table:
        names = (prefix + name.rstrip('*'), official_prefix + official, timm_prefix + timm)
        rows.append(names)
        if name.endswith('*'):
            for suffixes in (('.conv', '.c', '.c'), ('.bn', '.bn', '.bn')):
                rows.append(tuple(name + suffix for name, suffix in zip(names, suffixes, strict=True)))
    return [(*row, re.sub(r'^stages\.', 'stages_', row[2])) for row in rows]


def _examine(state_dict: Mapping, name: str, prefix: str) -> tuple[int, Layout]:
    """Return the number of keys of the body that this layout cannot explain, and the layout."""
    state = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    depths = _official_depths(state) if name == 'official' else _depths(state)
    if min(depths, default=0) < 0 or sum(depths) > len(state):  # gaps in the numbers of the blocks
        depths = ()
    names = _names(depths, name, 'repvit_dense')
    unexplained = sum(bool(_BODY.match(key)) and key.rpartition('.')[0] not in names for key in state) + (not depths)
    kernels = {f'{names[m]}.weight': state[f'{m}.weight'] for m in names if f'{m}.weight' in state}
    widths = []
    for s in range(len(depths)):
        mixer = f'stages.{s}.blocks.0.token_mixer'
        kernel = kernels.get(f'{mixer}.weight', kernels.get(f'{mixer}.conv_bn.conv.weight', torch.empty(0)))
        widths.append(kernel.shape[0] if kernel.ndim else 0)
    return unexplained, Layout(name, prefix, 'stem.conv1.weight' in kernels, depths, tuple(widths))


def _depths(state: Mapping) -> tuple[int, ...]:
    """Count the blocks of each stage by their names."""
    blocks = {m.groups() for m in (re.match(r'stages[._](\d{1,3})\.blocks\.(\d{1,3})\.', key) for key in state) if m}
    count = Counter(stage for stage, _ in blocks)
    return tuple(count[str(s)] for s in range(len(count)))


def _official_depths(state: Mapping) -> tuple[int, ...]:
    """Count the blocks of each stage; only a downsampling block, the first of a stage, has a `token_mixer.2`."""
    blocks = {m[1] for m in (re.match(r'features\.(\d{1,3})\.', key) for key in state) if m} - {'0'}
    down = sorted({int(m[1]) for m in (re.match(r'features\.(\d{1,3})\.token_mixer\.2\.', key) for key in state) if m})
    depths = [end - start - 2 for start, end in pairwise([0, *down])]  # less the pre-downsample block
    depths.append(len(blocks) - (down[-1] if down else 0))
    if len(depths) < 4:
        # The body alternates with and without squeeze-and-excite; a pre-downsample block never has it.
        last = f'features.{len(blocks)}.token_mixer.1.'
        depths[-1] -= depths[-1] % 2 == 1 and not any(key.startswith(last) for key in state)
    return tuple(depths)
