"""`list` and the functions behind it."""

import json

import pytest

from repvit_dense import catalogue, catalogue_rows, cli, config
from repvit_dense.catalogue_sizes import SIZES
from repvit_dense.commands.list import Options, list_backbones, list_configs, run
from repvit_dense.errors import InputError
from tools.pages import sizes


def test_all_backbones_are_listed():
    assert list_backbones() == list(catalogue.BACKBONES)


def test_backbones_by_pattern():
    assert 'mobilevitv2_100' in list_backbones('*vit*')
    assert 'resnet18' not in list_backbones('*vit*')
    assert list_backbones('nonsense*') == []


def test_configs_by_task():
    by_task = {task: list_configs(task=task) for task in ('detection', 'instance', 'panoptic', 'semantic')}
    assert 'repvit_ssdlite_coco' in by_task['detection']
    assert 'repvit_rtmdet-ins_coco' in by_task['instance']
    assert sorted(sum(by_task.values(), [])) == list_configs() == config.names()


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="task 'boxes'.*instance"):
        list_configs(task='boxes')


@pytest.mark.parametrize(
    'arguments, line',
    [
        ([], 'repvit_m1_1 '),
        (['configs', '*ssd*'], 'repvit_ssdlite_coco '),
        (['data', '--task', 'panoptic'], 'coco-panoptic '),
        (['formats'], 'onnx '),
        (['models'], 'nuclei '),
        (['weights'], 'repvit_m1_1_coco.pth '),
    ],
)
def test_the_command_prints_a_line_per_name(capsys, arguments, line):
    with pytest.raises(SystemExit) as ended:
        cli.main('list', arguments)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(each.startswith(line) for each in lines)


@pytest.mark.parametrize('pattern', ['*vit_xxs', '*vit*_s', '*'])
def test_backbones_are_listed_by_group(capsys, pattern):
    with pytest.raises(SystemExit):
        cli.main('list', ['backbones', pattern])
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line, before in zip(lines[1:], lines, strict=False) if not before]
    names = {*list_backbones(pattern)}
    shown = [group for group, rows in catalogue_rows.GROUPS.items() if names & {row.name for row in rows}]
    assert titles == ([f'{group}:' for group in shown] if len(shown) > 1 else [])
    assert len(lines) == 1 + len(names) + 2 * len(titles)


def test_weights_that_backbones_share_are_listed_once(capsys):
    with pytest.raises(SystemExit):
        cli.main('list', ['weights', '--json'])
    names = [row['name'] for row in json.loads(capsys.readouterr().out)]
    assert len(names) == len({*names})


def test_published_scores_as_json(capsys):
    with pytest.raises(SystemExit):
        cli.main('list', ['weights', 'repvit_m1_1*', '--json'])
    row = json.loads(capsys.readouterr().out)[0]
    assert (row['published'], row['licence']) == ({'box AP': 39.8, 'mask AP': 37.2}, 'Apache-2.0')


@pytest.mark.parametrize('name', ['repvit_m0_6', 'mobile_former_26m', 'mobilevit_xxs'])
def test_the_sizes_are_those_of_the_networks(name):
    assert SIZES.keys() == catalogue.BACKBONES.keys()
    assert SIZES[name] == pytest.approx(sizes.measure(name), abs=0.011)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['backbones', 'm1*'], 'm1*: none of the backbones matches'),
        (['configs', 'x*', '--task', 'semantic'], 'x*: none of the configs for semantic labels matches'),
        (['--task', 'semantic'], '--task semantic: goes with configs'),
    ],
)
def test_nothing_to_list(refuse_in_a_line, arguments, words):
    assert words in refuse_in_a_line('list', *arguments)


def test_networks_of_timm_are_listed_and_those_that_do_not_fit_are_named(capsys):
    assert run(Options('backbones', 'timm/test_resnet')) == ['timm/test_resnet']
    with pytest.raises(InputError, match='none of the backbones matches'):
        run(Options('backbones', 'timm/test_coatnet'))
    assert "left out: timm's test_coatnet accepts images of one size only" in capsys.readouterr().err
