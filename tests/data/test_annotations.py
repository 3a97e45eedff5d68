from PIL import Image

from repvit_dense.data.annotations import Picture, hold_out, to_coco


def test_an_image_outside_the_folder_keeps_its_absolute_path(tmp_path):
    image = tmp_path / 'elsewhere/a.png'
    image.parent.mkdir()
    Image.new('RGB', (10, 8)).save(image)
    content = to_coco(tmp_path / 'data', [Picture(image, (10, 8), [])], ['cat'])
    assert content['images'] == [{'id': 1, 'file_name': image.as_posix(), 'height': 8, 'width': 10}]
    assert content['annotations'] == []


def test_images_with_impossible_ids_and_names_can_be_held_out(tmp_path):
    ids, names = ([1], {'a': 1}, None, 'x', 2.0, True), ('\ud800', 'a' * 5000, None, 3, ['b'], 'c')
    images = [{'id': key, 'file_name': name} for key, name in zip(ids, names, strict=True)]
    annotations = [{'image_id': key} for key in ids]
    train, val = hold_out(tmp_path, {'images': images, 'annotations': annotations, 'categories': []})
    assert len(val['annotations']) == len(val['images']) == 1
    assert len(train['annotations']) == len(train['images']) == 5
