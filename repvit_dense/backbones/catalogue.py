"""Every backbone a config may ask for by name, and the published weights of each. Imports nothing heavy."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

OFFICIAL = 'https://github.com/THU-MIG/RepViT/releases/download/v1.0/'
HUB = 'https://huggingface.co/'


@dataclass(frozen=True)
class Backbone:
    """One row of the catalogue.

    Attributes:
        name: what a config or `--backbone` says.
        type, args: registry name and arguments that build it.
        channels, strides: of its features, stage by stage.
        licence: of the published weights (SPDX).
        weights: names of published ImageNet weights and where they are.
        default_weights: the name in `weights` that the COCO and ADE20K recipes start from.
        downstream: published detectors and segmentors on this backbone, likewise.
    """

    name: str
    type: str
    args: Mapping
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    licence: str
    weights: Mapping[str, str]
    default_weights: str
    downstream: Mapping[str, str] = field(default_factory=dict)


def _repvit(arch: str, channels: tuple[int, ...], epochs: str = '300e', downstream: bool = False) -> Backbone:
    name = f'repvit_{arch}'
    schedules = ('300e',) if arch == 'm0_6' else ('300e', '450e')  # m0_6 was published once, and never for timm
    files = [f'{name}_distill_{schedule}.pth' for schedule in schedules]
    hub = [] if arch == 'm0_6' else [f'timm/{name}.dist_{schedule}_in1k' for schedule in schedules]
    dense = [f'{name}_coco.pth', f'{name}_ade20k.pth'] if downstream else []
    weights = {repo: f'{HUB}{repo}/resolve/main/model.safetensors' for repo in hub}
    return Backbone(
        name=name,
        type='RepViT',
        args={'arch': arch},
        channels=channels,
        strides=(4, 8, 16, 32),
        licence='Apache-2.0',
        weights=weights | {file: OFFICIAL + file for file in files},
        default_weights=next(key for key in (*weights, *files) if epochs in key),
        downstream={file: OFFICIAL + file for file in dense},
    )


BACKBONES = {
    entry.name: entry
    for entry in (
        _repvit('m0_6', (40, 80, 160, 320)),
        _repvit('m0_9', (48, 96, 192, 384)),
        _repvit('m1_0', (56, 112, 224, 448)),
        _repvit('m1_1', (64, 128, 256, 512), downstream=True),
        _repvit('m1_5', (64, 128, 256, 512), downstream=True),
        _repvit('m2_3', (80, 160, 320, 640), epochs='450e', downstream=True),
    )
}


def find(name: str) -> Backbone:
    """The entry of this name; RepViT variants also by their short one, `m1_1`. Raises ValueError with the nearest."""
    entry = BACKBONES.get(name) or BACKBONES.get(f'repvit_{name}')
    if entry is None:
        raise ValueError(f"unknown backbone '{name}'; nearest: {nearest(name, BACKBONES)}")
    return entry


def resolve(name: str) -> tuple[str, str]:
    """Where published weights are.

    Args:
        name: of weights in the catalogue: a Hugging Face repository or the file name of the authors' release.

    Returns:
        their URL, and the file name under which a download is kept.

    Raises:
        ValueError: names the nearest known ones.
    """
    known = {}
    for entry in BACKBONES.values():
        known |= {**entry.weights, **entry.downstream}
    if name not in known:
        raise ValueError(f"no weights '{name}' in the catalogue; nearest: {nearest(name, known)}")
    return known[name], cache_name(known[name])


def cache_name(url: str) -> str:
    """The file name under which a download is kept: the URL's own, but every file of the hub is `model.safetensors`."""
    path = PurePosixPath(unquote(urlsplit(url).path))
    if url.startswith(HUB) and 'resolve' in path.parts[3:4]:
        return path.parts[2] + path.suffix
    return path.name


def nearest(name: str, known) -> str:
    """The three most similar of the known names, for an error message."""
    return ', '.join(difflib.get_close_matches(name, known, n=3, cutoff=0))
