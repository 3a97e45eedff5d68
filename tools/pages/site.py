"""Hooks of the documentation site (mkdocs.yml): pages from the root folder, option lists, links that leave docs/."""

import argparse
import dataclasses
import html
import os
import posixpath
import re
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Files of the root folder that are pages of the site too.
ROOT_PAGES = {
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'SECURITY.md': 'security.md',
    'README.md': 'index.md',
}
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)')  # an image with `!`, else a link
COMMANDS = '<!-- commands -->'
ARGUMENTS = re.compile(r'<!-- arguments of (\w+) -->')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root folder."""
    for name, uri in ROOT_PAGES.items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding='utf-8')))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the lists of options and arguments, and redirect or remove links to files outside docs/."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, option_lists())
    markdown = ARGUMENTS.sub(lambda match: argument_table(match[1]), markdown)
    uri = page.file.src_uri
    root_names = {page: name for name, page in ROOT_PAGES.items()}
    source = root_names[uri] if page.file.generated_by else f'docs/{uri}'
    return LINK.sub(lambda match: redirect(match, source, uri), markdown)


def redirect(match: re.Match, source: str, uri: str) -> str:
    """Return the link as the site needs it.

    Args:
        match: a link in a page.
        source: the page's file, relative to the root folder.
        uri: the page's file, relative to docs/.
    """
    mark, text, link = match.groups()
    path, _, anchor = link.partition('#')
    if not path or ':' in link:
        return match.group()
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if target in ROOT_PAGES:
        target = ROOT_PAGES[target]
    elif target.startswith('docs/'):
        target = target.removeprefix('docs/')
    else:  # a source file: the site has no page for it
        return text
    anchor = f'#{anchor}' if anchor else ''
    return f'{mark}[{text}]({posixpath.relpath(target, posixpath.dirname(uri) or ".")}{anchor})'


def option_lists() -> str:
    """Return the `--help` text of every command, as Markdown."""
    from repvit_dense.cli import build_parser

    width = os.environ.get('COLUMNS')
    os.environ['COLUMNS'] = '100'
    try:
        actions = build_parser()._actions
        (commands,) = (action.choices for action in actions if isinstance(action, argparse._SubParsersAction))
        return '\n\n'.join(f'## {name}\n\n```text\n{sub.format_help()}```' for name, sub in commands.items())
    finally:
        os.environ.pop('COLUMNS')
        if width:
            os.environ['COLUMNS'] = width


def argument_table(command: str) -> str:
    """Return a Markdown table of the arguments of a function of the Python API."""
    rows = ['| argument | default | |', '|---|---|---|']
    for field in dataclasses.fields(import_module(f'repvit_dense.commands.{command}').Options):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = str(default) if isinstance(default, Path) else default
        shown = 'required' if default is dataclasses.MISSING else f'`{default!r}`'
        rows.append(f'| `{field.name}` | {shown} | {html.escape(field.metadata["help"])} |')
    return '\n'.join(rows)
