"""Backbones and published weights by name; the rows are in `catalogue_rows`. This module imports no other package."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from repvit_dense import catalogue_timm
from repvit_dense.catalogue_rows import BACKBONES, HUB, OFFICIAL, Backbone
from repvit_dense.errors import nearest


@dataclass(frozen=True)
class Published:
    """A detector or segmentor that the authors of RepViT published.

    Attributes:
        name: the file name, which also stands for it on the command line, with or without `.pth`.
        config: the packaged config that its weights fit, after `set_backbone(cfg, backbone)`.
        backbone: its name in `BACKBONES`.
        scores: metrics in percent as the authors published them: box AP, mask AP (COCO val2017), mIoU (ADE20K val).
        licence: SPDX.
    """

    name: str
    config: str
    backbone: str
    scores: Mapping[str, float]
    licence: str = 'Apache-2.0'

    @property
    def url(self) -> str:
        """Return the address of the file."""
        return OFFICIAL + self.name


# backbone -> box AP, mask AP of Mask R-CNN (1x); mIoU of Semantic FPN (40,000 iterations)
_SCORES = {
    'repvit_m1_1': (39.8, 37.2, 40.6),
    'repvit_m1_5': (41.6, 38.6, 43.6),
    'repvit_m2_3': (44.6, 40.8, 46.1),
}
PUBLISHED = {
    entry.name: entry
    for backbone, (box, mask, miou) in _SCORES.items()
    for entry in (
        Published(f'{backbone}_coco.pth', 'repvit_maskrcnn_coco', backbone, {'box AP': box, 'mask AP': mask}),
        Published(f'{backbone}_ade20k.pth', 'repvit_semfpn_ade20k', backbone, {'mIoU': miou}),
    )
}


def find(name: str) -> Backbone:
    """Return the row of this name, or of a network of timm (`timm/NAME`). Raises ValueError.

    RepViT variants also have a short name, `m1_1`.
    """
    if name.startswith(catalogue_timm.PREFIX):
        return catalogue_timm.row(name)
    entry = BACKBONES.get(name) or BACKBONES.get(f'repvit_{name}')
    if entry is None:
        short = (known.removeprefix('repvit_') for known in BACKBONES)
        hint = nearest(name, [*BACKBONES, *short]) or '; `repvit-dense list` lists all'
        raise ValueError(f"unknown backbone '{name}'{hint}")
    return entry


def is_backbone(name: str) -> bool:
    """Return whether `find` is to look for a name; it says what is wrong with one of timm's."""
    return bool({name, f'repvit_{name}'} & BACKBONES.keys()) or name.startswith(catalogue_timm.PREFIX)


def is_known(name: str) -> bool:
    """Return whether a name stands for a backbone, or for a published detector or segmentor."""
    return is_backbone(name) or bool({name, f'{name}.pth'} & PUBLISHED.keys())


def resolve(name: str) -> tuple[str, str]:
    """Return the URL of published weights, and the name of the cached file.

    Args:
        name: of weights: a Hugging Face repository in the catalogue, `timm/NAME.TAG` for any weights of timm, or the
            file name of the authors' release, with or without `.pth`.

    Raises:
        ValueError: the name is unknown; the message lists the most similar ones.
    """
    known: dict[str, str] = {entry.name: entry.url for entry in PUBLISHED.values()}
    for backbone in BACKBONES.values():
        known |= backbone.weights
    name = f'{name}.pth' if f'{name}.pth' in known else name
    if name not in known and name.startswith(catalogue_timm.PREFIX):
        url = catalogue_timm.url(name)
        return url, cache_name(url)
    if name not in known:
        hint = nearest(name, known) or '; `repvit-dense list weights` lists all'
        raise ValueError(f"no weights '{name}' in the catalogue{hint}")
    return known[name], cache_name(known[name])


def licence_of(weights: str) -> str:
    """Return the licence (SPDX) of weights by their name, see `resolve`; '' if no name of the catalogue or of timm."""
    for row in BACKBONES.values():
        if {weights, f'{weights}.pth'} & row.weights.keys():
            return row.licence
    published = PUBLISHED.get(weights) or PUBLISHED.get(f'{weights}.pth')
    if published:
        return published.licence
    return catalogue_timm.licence(weights) if weights.startswith(catalogue_timm.PREFIX) else ''


def package_of(url: str) -> str:
    """Return the package of PyPI that holds the weights at this URL; '' if there is none."""
    rows = (row for row in BACKBONES.values() if row.package and row.weights[row.default_weights] == url)
    return next((row.package for row in rows), '')


def cache_name(url: str) -> str:
    """Return the file name for a cached download: the URL's, or the repository's since the hub's are all the same."""
    path = PurePosixPath(unquote(urlsplit(url).path))
    if url.startswith(HUB) and 'resolve' in path.parts[3:4]:
        return path.parts[2] + path.suffix
    return path.name
