"""Imports point one way, files stay short, and light parts import nothing heavy. See docs/design.md."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'repvit_dense'
FILES = sorted((ROOT / PACKAGE).rglob('*.py'))
ALL_FILES = [
    *FILES,
    *(path for folder in ('tools', 'tests', 'configs') for path in sorted((ROOT / folder).rglob('*.py'))),
]
LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines

# The rooms in order: each may import from those before it.
ROOMS = (
    *(
        'errors',
        'catalogue_rows',
        'catalogue_timm',
        'catalogue',
        'catalogue_sizes',
        'options',
        'files',
        'screen',
        'plugin',
        'memory',
        'image_header',
        'reparam',
        'page',
        'compat',
        'backbones',
        'data',
        'checkpoints',
        'artifact',
    ),
    *('config', 'engine', 'model', 'exporting', 'benchmark', 'serving', 'commands', 'cli', 'api', '__init__'),
)
HEAVY = {'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'matplotlib', 'cv2', 'tensorboard'}


def name_of(path):
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def room_of(module):
    """`repvit_dense.engine.guard` -> `engine`; the package itself -> `__init__`."""
    return [*module.split('.'), '__init__'][1]


def is_deferred(node):
    """Return whether importing the module does not run this node."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith('TYPE_CHECKING') and not node.orelse
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def imports(source, package='', module_level=False):
    """Return full names of all imported modules. For `from a import b`, both `a` and `a.b`: either may be a module."""
    names = set()

    def visit(node):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = package.split('.')[: len(package.split('.')) + 1 - node.level]
                base = '.'.join([*above, base]).rstrip('.')
            names.update({base, *(f'{base}.{alias.name}' for alias in node.names)})
        elif module_level and is_deferred(node):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return names


def imports_of(path, module_level=False):
    return imports(path.read_text(), name_of(path).rpartition('.')[0], module_level)


def tops(names):
    return {name.partition('.')[0] for name in names}


def test_every_file_is_in_a_room():
    assert {room_of(name_of(path)) for path in FILES} <= set(ROOMS)


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_imports_point_one_way(path):
    own = room_of(name_of(path))
    used = {room_of(name) for name in imports_of(path) if name.startswith(f'{PACKAGE}.')} - {own, '__version__'}
    assert used <= set(ROOMS[: ROOMS.index(own)])


def test_no_circle_of_imports():
    modules = {name_of(path).removesuffix('.__init__'): path for path in FILES}
    graph = {name: imports_of(path, module_level=True) & modules.keys() - {name} for name, path in modules.items()}
    for name, used in graph.items():  # `from package import module` does not use what the package itself defines
        graph[name] = {other for other in used if not any(deeper.startswith(f'{other}.') for deeper in used)}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_no_code_imports_a_config_or_a_tool(path):
    assert not {'configs', 'tools', 'tests'} & tops(imports_of(path))


@pytest.mark.parametrize('path', ALL_FILES, ids=name_of)
def test_files_and_functions_fit_on_a_screen(path):
    lines = path.read_text().count('\n')
    assert lines <= LONGEST_FILE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize('path', sorted((ROOT / PACKAGE / 'artifact').glob('*.py')), ids=name_of)
def test_an_artifact_runs_on_numpy_and_opencv(path):
    names = tops(imports_of(path, module_level=True))
    assert names - sys.stdlib_module_names <= {PACKAGE, 'cv2', 'numpy'}


def test_reparam_needs_torch_alone():
    assert tops(imports_of(ROOT / PACKAGE / 'reparam.py')) - sys.stdlib_module_names == {'torch'}


COMMANDS = sorted(path.stem for path in (ROOT / 'tools').glob('*.py') if 'check_' not in path.stem)


def test_help_imports_nothing_heavy():
    code = (
        'import sys; from repvit_dense.cli import main\n'
        f'for command in {COMMANDS}:\n'
        '    try: main(command, ["--help"])\n'
        '    except SystemExit: pass\n'
        'print("loaded:", *sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert tops(done.stdout.partition('loaded:')[2].split()) & (HEAVY | {'numpy'}) == set()


@pytest.mark.parametrize('command', COMMANDS)
def test_tools_only_call_the_command_line(command):
    path = ROOT / 'tools' / f'{command}.py'
    assert {name for name in imports_of(path) if not name.startswith(f'{PACKAGE}.cli')} == set()
    assert f"main('{command}')" in path.read_text()


def test_a_wrong_import_is_seen():
    """Check `imports` itself: nested, relative and dotted imports all count."""
    source = 'def f():\n from ..engine import guard\n import mmdet.models\nfrom repvit_dense import cli\n'
    names = imports(source, 'repvit_dense.backbones')
    assert {'repvit_dense.engine', 'repvit_dense.engine.guard', 'mmdet.models', 'repvit_dense.cli'} <= names
    assert 'mmdet.models' not in imports(source, module_level=True)
