"""Hooks of the documentation site; the site itself is built by `make docs`."""

import pytest

pytest.importorskip('mkdocs', reason='`make docs` installs mkdocs')
from tools.pages import site  # noqa: E402


@pytest.mark.parametrize(
    ('link', 'source', 'uri', 'expected'),
    [
        ('[a](docs/start.md#train)', 'README.md', 'index.md', '[a](start.md#train)'),
        ('![a](docs/img/a.png)', 'README.md', 'index.md', '![a](img/a.png)'),
        ('[a](../CHANGELOG.md)', 'docs/design.md', 'design.md', '[a](changelog.md)'),
        ('[a](../data.md)', 'docs/reference/api.md', 'reference/api.md', '[a](../data.md)'),
        ('[a](../configs/a.py)', 'docs/model_zoo.md', 'model_zoo.md', 'a'),
        ('[a](#b)', 'README.md', 'index.md', '[a](#b)'),
        ('[a](https://example.org/b.md)', 'README.md', 'index.md', '[a](https://example.org/b.md)'),
    ],
)
def test_links_follow_their_page(link, source, uri, expected):
    assert site.redirect(site.LINK.fullmatch(link), source, uri) == expected


def test_option_lists_have_a_section_per_command():
    text = site.option_lists()
    assert '## train\n' in text
    assert '--backbone NAME' in text


def test_argument_tables_have_a_row_per_option():
    table = site.argument_table('train')
    assert '| `config` | required |' in table
    assert '| `epochs` | `None` |' in table
