import pytest
from PIL import Image

from repvit_dense.data.annotations import split_of, to_coco


@pytest.mark.parametrize(
    'name, split',
    [
        ('instances_train2017', 'train'),
        ('training', 'train'),
        ('valid', 'val'),
        ('Validation-1', 'val'),
        ('test', None),
        ('retrained', None),
    ],
)
def test_split_of(name, split):
    assert split_of(name) == split


def test_an_image_outside_the_folder_keeps_its_absolute_path(tmp_path):
    image = tmp_path / 'elsewhere/a.png'
    image.parent.mkdir()
    Image.new('RGB', (40, 20)).save(image)
    content = to_coco(tmp_path / 'data', [(image, None, [])], ['cat'])
    assert content['images'] == [{'id': 1, 'file_name': str(image), 'height': 20, 'width': 40}]
