"""Package metadata. The wheel contains configs/ and the commands of tools/ in `repvit_dense/.mim`, as mim expects."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'repvit_dense' / '__init__.py').read_text()).group(1)
# Scripts that work on this repository only.
NOT_PACKAGED = ('__pycache__', 'check_prose.py', 'pages')


class BuildWithConfigs(build_py):
    """Copy configs/ and tools/ into the wheel; an editable install reads them from the checkout."""

    def run(self):
        """Build the package, then add both folders."""
        super().run()
        if self.editable_mode:
            return
        for folder in ('configs', 'tools'):
            target = Path(self.build_lib) / 'repvit_dense' / '.mim' / folder
            shutil.copytree(ROOT / folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*NOT_PACKAGED))


setup(
    name='repvit_dense',
    version=VERSION,
    description='RepViT and its peers as mobile backbones for detection and segmentation, from training to device',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 14)),
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['repvit_dense', 'repvit_dense.*']),
    package_data={'repvit_dense': ['py.typed', 'static/*', 'pretrained/*/*']},
    install_requires=[
        'hotcoco>=1.3',
        'matplotlib',
        'numpy',
        'safetensors',
        'tensorboard',
        'timm>=1.0.31',
        'torch>=2.4',
        'torchvision>=0.19',
        'tqdm',
    ],
    extras_require={
        # The maintained continuation of OpenMMLab; not to be combined with the original mmcv, mmdet and mmseg.
        'openmmlab': [
            'onedl-mmengine>=0.10.8',
            'onedl-mmcv>=2.3',
            'onedl-mmdetection>=3.4',
            'onedl-mmsegmentation>=1.3',
            'opencv-python-headless',
        ],
        # Read YOLO and Pascal VOC folders given as --data PATH.
        'convert': ['defusedxml', 'pyyaml', 'supervision>=0.31'],
        'serve': ['fastapi', 'uvicorn'],  # `repvit-dense serve`
        # One extra per artifact format of `repvit-dense export` and `Predictor`.
        'onnx': ['onnx>=1.20', 'onnxruntime>=1.23', 'onnxscript>=0.7'],
        'openvino': ['onnx>=1.20', 'onnxscript>=0.7', 'openvino>=2026.0'],
        'openvino-int8': ['nncf>=3.4', 'onnx>=1.20', 'onnxscript>=0.7', 'openvino>=2026.0'],
        'coreml': ['coremltools>=9'],
        'executorch': ['executorch>=1.2,<1.3'],
        'dev': ['mypy', 'pre-commit', 'pytest', 'pytest-cov', 'pytest-timeout', 'pytest-xdist', 'ruff'],
    },
    entry_points={'console_scripts': ['repvit-dense = repvit_dense.cli:main']},
    cmdclass={'build_py': BuildWithConfigs},
)
