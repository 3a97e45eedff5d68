"""The catalogue agrees with the backbones it names, and says where weights are."""

import ast
import sys
from pathlib import Path

import pytest

from repvit_dense.backbones import RepViT, catalogue
from repvit_dense.backbones.repvit import ARCHS


def test_every_repvit_variant_is_listed():
    assert set(catalogue.BACKBONES) == {f'repvit_{arch}' for arch in ARCHS}


@pytest.mark.parametrize('entry', catalogue.BACKBONES.values(), ids=lambda entry: entry.name)
def test_entry_describes_what_it_builds(entry):
    assert entry.type == RepViT.__name__
    assert entry.channels == ARCHS[entry.args['arch']]['embed_dims']
    assert entry.strides == (4, 8, 16, 32)
    assert entry.licence == 'Apache-2.0'
    assert entry.default_weights in entry.weights


@pytest.mark.parametrize(
    ('name', 'weights'),
    [
        ('repvit_m1_1', 'timm/repvit_m1_1.dist_300e_in1k'),
        ('m1_5', 'timm/repvit_m1_5.dist_300e_in1k'),
        ('repvit_m2_3', 'timm/repvit_m2_3.dist_450e_in1k'),
        ('m0_6', 'repvit_m0_6_distill_300e.pth'),
    ],
)
def test_default_weights_are_those_of_the_recipes(name, weights):
    assert catalogue.find(name).default_weights == weights


@pytest.mark.parametrize(
    ('name', 'url', 'file'),
    [
        (
            'timm/repvit_m1_1.dist_450e_in1k',
            'https://huggingface.co/timm/repvit_m1_1.dist_450e_in1k/resolve/main/model.safetensors',
            'repvit_m1_1.dist_450e_in1k.safetensors',
        ),
        (
            'repvit_m0_9_distill_450e.pth',
            'https://github.com/THU-MIG/RepViT/releases/download/v1.0/repvit_m0_9_distill_450e.pth',
            'repvit_m0_9_distill_450e.pth',
        ),
        (
            'repvit_m2_3_ade20k.pth',
            'https://github.com/THU-MIG/RepViT/releases/download/v1.0/repvit_m2_3_ade20k.pth',
            'repvit_m2_3_ade20k.pth',
        ),
    ],
)
def test_weights_resolve_to_url_and_cache_name(name, url, file):
    assert catalogue.resolve(name) == (url, file)


def test_no_two_downloads_share_a_file_name():
    names = [name for entry in catalogue.BACKBONES.values() for name in (*entry.weights, *entry.downstream)]
    assert len({catalogue.resolve(name)[1] for name in names}) == len(names)


def test_hub_urls_given_in_full_do_not_collide_either():
    url = 'https://huggingface.co/someone/their.model/resolve/main/model.safetensors?download=true'
    assert catalogue.cache_name(url) == 'their.model.safetensors'


def test_unknown_names_list_the_nearest():
    with pytest.raises(ValueError, match=r'm1_2.*repvit_m1_\d'):
        catalogue.find('repvit_m1_2')
    with pytest.raises(ValueError, match=r'timm/repvit_m1_1\.dist_450e_in1k'):
        catalogue.resolve('timm/repvit_m1_1.dist_450')


def test_imports_nothing_but_the_standard_library():
    tree = ast.parse(Path(catalogue.__file__).read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {module.partition('.')[0] for module in modules} <= sys.stdlib_module_names
