"""Imports point one way, and what is meant to be light imports nothing heavy. See docs/design.md."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'repvit_dense'
PACKAGE_FOLDER = ROOT / PACKAGE
FILES = sorted(PACKAGE_FOLDER.rglob('*.py'))

# Part of the package -> the parts it may import from, besides itself.
BELOW = {
    'errors': set(),
    'memory': set(),
    'files': set(),
    'reparam': set(),
    'mmcv_ops': set(),
    'plugin': set(),
    'page': {'files'},
    'data': {'memory', 'errors', 'files'},
    'artifact': {'errors', 'data', 'files'},
    '__init__': {'mmcv_ops', 'plugin'},
}
BELOW['backbones'] = {'errors', 'reparam'}
BELOW['safe_read'] = BELOW['config'] = BELOW['backbones'] | {'backbones', 'data', 'mmcv_ops'}
BELOW['checkpoint'] = BELOW['safe_read'] | {'safe_read'}
BELOW['engine'] = BELOW['doctor'] = BELOW['checkpoint'] | {'checkpoint', 'memory', 'config', 'files'}
BELOW['predict'] = BELOW['engine'] | {'artifact', 'engine', 'page'}
BELOW['deploy'] = BELOW['predict'] | {'predict'}
BELOW['benchmark'] = BELOW['deploy'] | {'deploy'}
BELOW['cli'] = BELOW['benchmark'] | {'benchmark', 'deploy', 'doctor'}

# What of deploy/ an artifact runs on: the part 'artifact' above.
ALONE = ('manifest', 'picture', 'predictor', 'preprocess', 'runtimes', 'signal_stack')

# Imported by `--help` or where there is no OpenMMLab: these may not import the following with themselves.
LIGHT = (
    'memory',
    'errors',
    'files',
    'plugin',
    '__init__',
    'cli',
    'config',
    'data',
    'doctor',
    'mmcv_ops',
    'page',
    'predict',
)
LIGHT_FILES = [
    *(PACKAGE_FOLDER / 'deploy' / f'{name}.py' for name in ('__init__', 'evaluate', 'export', 'manifest', 'runtimes')),
    PACKAGE_FOLDER / 'deploy' / 'formats' / '__init__.py',
    PACKAGE_FOLDER / 'benchmark' / '__init__.py',
]
HEAVY = {'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'matplotlib', 'cv2', 'tensorboard'}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts)


def part_of(module):
    """`repvit_dense.engine.guard` -> `engine`; what an artifact runs on is a part of its own."""
    _, part, name, *_ = [*module.split('.'), '__init__', '']
    return 'artifact' if part == 'deploy' and name in ALONE else part


def is_not_run(node):
    """Whether what is in this node waits when the module is imported."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith('TYPE_CHECKING') and not node.orelse
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def imports(path, module_level=False):
    """Full names of what a file imports. For `from a import b`, both `a` and `a.b`: either may be a module."""
    found = set()

    def visit(node):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                package = name_of(path).split('.')[: -node.level]
                base = '.'.join([*package, base]).rstrip('.')
            found.update({base, *(f'{base}.{alias.name}' for alias in node.names)})
        elif module_level and is_not_run(node):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def tops(names):
    return {name.partition('.')[0] for name in names}


def test_the_whole_package_is_looked_at():
    assert len(FILES) > 15
    assert {part_of(name_of(path)) for path in FILES} <= BELOW.keys()


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_imports_point_one_way(path):
    own = part_of(name_of(path))
    names = {name for name in imports(path) if name.startswith(f'{PACKAGE}.')}
    used = {part_of(name) for name in names - {f'{PACKAGE}.deploy'}} - {'__version__'}  # the folder itself is empty
    assert used - BELOW[own] - {own} == set()


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_detectors_are_imported_only_where_they_are_used(path):
    assert not {'mmdet', 'mmseg'} & tops(imports(path, module_level=True))


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_no_code_imports_a_config_or_a_tool(path):
    assert not {'configs', 'tools', 'tests'} & tops(imports(path))


@pytest.mark.parametrize('path', [path for path in FILES if part_of(name_of(path)) in LIGHT] + LIGHT_FILES, ids=name_of)
def test_light_modules_import_nothing_heavy(path):
    assert not HEAVY & tops(imports(path, module_level=True))


@pytest.mark.parametrize('name', ALONE)
def test_an_artifact_runs_on_numpy_and_opencv(name):
    found = tops(imports(PACKAGE_FOLDER / 'deploy' / f'{name}.py', module_level=True))
    assert found - sys.stdlib_module_names <= {PACKAGE, 'cv2', 'numpy'}


def test_reparam_needs_torch_alone():
    assert tops(imports(ROOT / PACKAGE / 'reparam.py')) - sys.stdlib_module_names == {'torch'}


@pytest.mark.parametrize('path', sorted((ROOT / 'tools').glob('*.py')), ids=lambda path: path.stem)
def test_tools_only_call_the_command_line(path):
    assert {name for name in imports(path) if not name.startswith(f'{PACKAGE}.cli')} == set()
    assert f"main('{path.stem}')" in path.read_text()


def test_a_wrong_import_is_seen(tmp_path):
    """The check itself: nested, relative and dotted imports all count."""
    path = ROOT / PACKAGE / 'backbones' / 'x.py'
    source = 'def f():\n from ..engine import guard\n import mmdet.models\nfrom repvit_dense import cli\n'

    class Fake:
        def relative_to(self, root):
            return path.relative_to(root)

        def read_text(self):
            return source

    found = imports(Fake())
    assert {'repvit_dense.engine', 'mmdet.models', 'repvit_dense.cli'} <= found
    assert 'mmdet.models' not in imports(Fake(), module_level=True)
