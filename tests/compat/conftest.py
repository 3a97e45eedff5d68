"""Fixtures: ids of every kind."""

import pytest

IDS = {
    'text': lambda n: f'image {n}',
    'zero': lambda n: n - 1,
    'negative': lambda n: -n,
    'huge': lambda n: 2**70 - n,
    'sparse': lambda n: 1_000_003 * n,
    'mixed': lambda n: [n, f'{n - 1}', -n][n % 3],
}


def with_ids(rename, truth, results):
    """Return ground truth and results whose ids are `rename(old id)`."""
    truth = {
        'images': [{**each, 'id': rename(each['id'])} for each in truth['images']],
        'categories': [{**each, 'id': rename(each['id'])} for each in truth['categories']],
        'annotations': [
            {**each, **{key: rename(each[key]) for key in ('id', 'image_id', 'category_id')}}
            for each in truth['annotations']
        ],
    }
    return truth, [(size, {**each, 'img_id': rename(each['img_id'])}) for size, each in results]


@pytest.fixture(params=IDS)
def rename(request):
    """Return a function from a number to an id of one kind."""
    return IDS[request.param]


@pytest.fixture
def renamed(rename):
    """Return `renamed(truth, results)`: both with ids of one kind."""
    return lambda truth, results: with_ids(rename, truth, results)
