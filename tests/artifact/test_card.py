"""A card tells the facts in the file of a model, names missing ones, and text from the file cannot break it."""

import re

import pytest
import yaml

from repvit_dense.artifact.card import Subject, card, measured, of_artifact

HOSTILE = 'a"b\nlicense: evil\n---\n# x | `y` <script> [z](http://e) \x1b😀'
RECORD = {
    'version': 1,
    'command': 'repvit-dense train c.py --data nuclei',
    'config': 'c',
    'parameters': 5_100_000,
    'data': {'name': 'nuclei', 'url': None, 'licence': 'CC0-1.0', 'train': {'images': 398, 'sha256': 'ab' * 32}},
    'iterations': 20,
    'seconds': None,
    'scores': {
        'split': 'val',
        'chosen_by': 'coco/segm_mAP',
        'last': {'iteration': 30, 'values': {'coco/segm_mAP': 0.3}},
        'best': {'iteration': 20, 'values': {'coco/segm_mAP': 0.41234}},
    },
    'initial_weights': {'name': 'timm/x', 'licence': 'Apache-2.0'},
    'licence': 'unknown',
}


def a_subject(**changes):
    fields = {'name': 'c', 'place': 'work/run', 'task': 'instance', 'classes': ['cell'], 'backbone': 'repvit_m0_6'}
    return Subject(**{**fields, 'provenance': RECORD, **changes})


def header(text):
    return yaml.safe_load(text.split('---\n')[1])


def test_the_header_is_that_of_the_hub():
    content = header(card(a_subject()))
    assert content['license'] == 'unknown'
    assert content['library_name'] == 'repvit_dense'
    assert content['pipeline_tag'] == 'image-segmentation'
    assert content['datasets'] == ['nuclei']
    assert content['model-index'][0]['results'][0]['dataset'] == {'name': 'nuclei', 'type': 'nuclei', 'split': 'val'}
    assert content['model-index'][0]['results'][0]['metrics'] == [{'type': 'coco/segm_mAP', 'value': 0.41234}]


@pytest.mark.parametrize(
    ('licence', 'fields'),
    [('CC0-1.0', {'license': 'cc0-1.0'}), ('My own', {'license': 'other', 'license_name': 'My own'})],
)
def test_the_publisher_gives_the_licence(licence, fields):
    assert fields.items() <= header(card(a_subject(licence=licence))).items()


def test_the_page_tells_data_scores_and_licences():
    text = card(a_subject())
    assert '| train | 398 | ' + 'ab' * 32 in text
    assert '| coco/segm\\_mAP | 0.4123 |' in text
    assert 'They are the best of all validations by coco/segm\\_mAP, so the score is optimistic.' in text
    assert '| the initial weights | timm/x | Apache-2.0 |' in text
    assert '| seconds | not recorded |' in text
    assert 'no basis for a diagnosis' in text


@pytest.mark.parametrize(('iterations', 'expected'), [(20, (0.41234, True)), (30, (0.3, False)), (25, (None, False))])
def test_scores_are_those_of_just_these_weights(iterations, expected):
    entry, is_best = measured({**RECORD, 'iterations': iterations})
    assert (entry and entry['values']['coco/segm_mAP'], is_best) == expected


@pytest.mark.parametrize('record', [None, {}, {'scores': 1, 'data': [], 'iterations': 'x', 'initial_weights': 'y'}])
def test_missing_facts_are_said_to_be_missing(record):
    text = card(a_subject(provenance=record, task=None, classes=None, backbone=None))
    assert 'unknown' in text
    assert 'Not recorded.' in text
    assert 'No scores of these weights are recorded.' in text
    assert 'pipeline_tag' not in header(text)


def test_text_from_the_file_breaks_neither_header_nor_page():
    record = {**RECORD, 'data': {'name': HOSTILE, 'url': HOSTILE, 'train': {'images': HOSTILE}}, 'command': HOSTILE}
    record['scores'] = {'split': HOSTILE, 'best': {'iteration': 20, 'values': {HOSTILE: 1.0}}}
    text = card(a_subject(name=HOSTILE, place=HOSTILE, classes=[HOSTILE], backbone=HOSTILE, provenance=record))
    content = header(text)
    assert content['license'] == 'unknown'
    assert all('\x1b' not in part and '\n' not in part for part in content['tags'])
    page = text.split('---\n', 2)[2]
    assert not re.search(r'(?<!\\)<script|(?<!\\)\[z\]', re.sub(r'(`{3,}).*?\1', '', page, flags=re.DOTALL))
    for rows in re.findall(r'(?:^\|.*\n)+', page, re.MULTILINE):
        assert len({len(re.findall(r'(?<!\\)\|', row)) for row in rows.splitlines()}) == 1


def test_an_artifact_names_its_format(artifact):
    text = card(of_artifact(artifact('roi', provenance=RECORD)))
    assert 'An artifact (onnx, fp32)' in text
    assert 'pip install "repvit_dense[onnx]"' in text
    assert 'Measured on the checkpoint, before the export.' in text
