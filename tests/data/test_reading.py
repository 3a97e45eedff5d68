import gc
import subprocess
import sys
from contextlib import suppress

import cv2
import pytest
from PIL import Image

from repvit_dense.data.reading import image_size, read_coco
from repvit_dense.errors import InputError


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / 'a.json').write_bytes(b'\xff\xfe')
    with pytest.raises(InputError, match='a.json: cannot be read as text'):
        read_coco(tmp_path / 'a.json')


@pytest.mark.parametrize(
    'text, message',
    [
        ('{', 'not valid JSON'),
        ('[]', 'lacks the lists images, annotations, categories'),
        ('{"images": [], "annotations": {}, "categories": []}', 'lacks the lists annotations'),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', 'a category has no id or no name'),
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path, text, message):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(InputError, match=f'a.json: .*{message}'):
        read_coco(tmp_path / 'a.json')


@pytest.mark.parametrize('text', ['{"images": [], "annotations": [], "categories": []}', '{'])
def test_reading_enables_the_garbage_collector_again(tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    with suppress(InputError):
        read_coco(tmp_path / 'a.json')
    assert gc.isenabled()


def test_image_size_applies_the_exif_rotation(tmp_path):
    image, exif = Image.new('RGB', (6, 4)), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / 'a.jpg', exif=exif)
    assert image_size(tmp_path / 'a.jpg') == cv2.imread(str(tmp_path / 'a.jpg')).shape[1::-1] == (4, 6)


@pytest.mark.parametrize(
    'module, allowed', [('reading', ''), ('layouts', ''), ('annotations', ''), ('checks', 'numpy'), ('shapes', 'numpy')]
)
def test_imports_are_light(module, allowed):
    code = f'import sys, repvit_dense.data.{module}\nprint(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    heavy = {'numpy', 'cv2', 'PIL', 'pycocotools', 'supervision', 'torch', 'mmengine', 'mmdet'}
    assert heavy & set(done.stdout.split()) <= {allowed}
