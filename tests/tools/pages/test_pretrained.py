"""`python -m tools.pages pretrained` puts a model into the package with its floors and its card."""

import json

import pytest

from repvit_dense.artifact import manifest, pretrained
from repvit_dense.errors import InputError
from tools.pages import pretrained as page


@pytest.fixture
def places(monkeypatch, tmp_path, image):
    """Return the folder of packaged models; the images beside it have one label."""
    import cv2

    monkeypatch.setattr(pretrained, 'ROOT', tmp_path / 'package')
    monkeypatch.setattr(page, 'IMAGES', tmp_path / 'golden')
    folder = tmp_path / 'golden' / 'nuclei'
    (folder / 'images').mkdir(parents=True)
    cv2.imwrite(str(folder / 'images' / 'a.png'), image(64, 96))
    box = {'bbox': [9.6, 12.8, 48, 32], 'area': 1536, 'iscrowd': 0, 'segmentation': [[10, 13, 57, 13, 57, 44, 10, 44]]}
    labels = {
        'images': [{'id': 1, 'file_name': 'a.png', 'width': 96, 'height': 64}],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 7, **box}],
        'categories': [{'id': 5, 'name': 'cat'}, {'id': 7, 'name': 'dog'}, {'id': 9, 'name': 'sky'}],
    }
    (folder / 'labels.json').write_text(json.dumps(labels))
    (folder / 'card.md').write_text('{megabytes} MB: {scores}\n')
    return tmp_path / 'package'


def test_an_artifact_is_copied_measured_and_described(artifact, places):
    folder = artifact('roi')
    assert page.run(page.Options(model=folder)) == 0
    packaged = places / 'nuclei'
    assert manifest.read(packaged) == manifest.read(folder)
    record = json.loads((page.IMAGES / 'nuclei' / page.FLOORS).read_text())
    assert record['model_sha256'] == manifest.digest(packaged / 'model.onnx')
    assert record['measured'].keys() == record['floors'].keys() == {'mask_AP', 'mask_AP50'}
    assert record['measured']['mask_AP50'] == pytest.approx(record['floors']['mask_AP50'] + page.ROOM, abs=0.006)
    assert '\n0.0 MB: mask AP 0.' in (packaged / 'README.md').read_text()


def test_a_model_that_is_too_large_changes_nothing(artifact, places, monkeypatch):
    monkeypatch.setattr(page, 'LARGEST', 100)
    with pytest.raises(InputError, match='more than 100'):
        page.run(page.Options(model=artifact('roi')))
    assert not places.exists()
