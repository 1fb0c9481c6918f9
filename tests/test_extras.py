"""What can be imported and done where only some of the optional packages are installed, and what the rest is told."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from converters.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRA_OF_SIMULATORS = {"norse", "spikingjelly", "nirtorch", "sinabs"}
CONVERT = {package for package, extra in EXTRAS.items() if extra == "convert"}
ALL = set(EXTRAS) | EXTRA_OF_SIMULATORS

# as if these packages were not installed
WITHOUT = """
import sys
from importlib.machinery import PathFinder
there = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {names!r} else there(name, path, target)
PathFinder.find_spec = find_spec
"""


def without(names: set[str], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = WITHOUT.format(names=names) + code
    return subprocess.run([sys.executable, "-c", whole, *arguments], capture_output=True, text=True, cwd=ROOT)


NEURON = """
import torch
from torch import nn
from calif_plugins.snntorch import CaLIF, reset, settle, swap_neurons
net = nn.Sequential(nn.Linear(4, 3), CaLIF(y_max=8, init_hidden=True))
net(torch.ones(2, 4)).sum().backward()
block = CaLIF(multistep=True, init_hidden=True)
block(torch.ones(3, 2, 4))
swap_neurons(net), reset(net)
"""

TEN_LINES = """
import torch
from torch import nn
import converters
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 3))
images = torch.rand(4, 1, 8, 8)
m = converters.prepare_qat(model, images, levels=7)
m(images)
q = converters.from_pt2e(m)
r = converters.run(converters.to_nir(q, T=7), images)
integers = q.execute(images)
assert all(torch.equal(n.long(), integers[k]) for k, n in r.counts.items())
"""

# what is asked for, and the package and the extra that it names
ASKED = """
import importlib, sys
def ask(what):
    module, _, call = what.partition(":")
    try:
        eval(call, {"m": importlib.import_module(module)}) if call else importlib.import_module(module)
    except ImportError as error:
        print(error)
for what in sys.argv[1:]:
    ask(what)
"""


def asked(absent: set[str], first: str, wanted: dict[str, tuple[str, str]]) -> None:
    found = without(absent, first + ASKED, *wanted)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == len(wanted), found.stdout
    for line, (package, extra) in zip(lines, wanted.values(), strict=True):
        assert line.startswith(f"{package}: found that it is not installed")
        assert line.endswith(f'; install it: pip install "calif-plugins[{extra}]"')


def test_the_neuron_needs_torch_and_snntorch_alone() -> None:
    """It works where no optional package is; whatever else is asked for there names its extra."""
    needed = {name.partition(">")[0] for name in PROJECT["dependencies"]}
    assert needed == {"numpy", "torch", "snntorch"}
    asked(
        ALL,
        NEURON,
        {
            "converters:m.prepare_qat": ("torchao", "convert"),
            "converters:m.to_nir": ("nir", "convert"),
            "calif_plugins.brian2": ("brian2", "brian2"),
            "calif_plugins.norse": ("norse", "norse"),
            "calif_plugins.spikingjelly": ("spikingjelly", "spikingjelly"),
        },
    )


def test_converting_needs_its_extra_alone() -> None:
    asked(
        ALL - CONVERT,
        TEN_LINES,
        {
            "converters:m.to_brian2": ("brian2", "brian2"),
            "converters.backends.contract:m.backend_for('brian2', m.torch.device('cpu'))": ("brian2", "brian2"),
            "converters.zoo.datasets:m.load('digits', 'test')": ("sklearn", "data"),
            "converters:m.to_onnx": ("onnx", "onnx"),
        },
    )


@pytest.mark.parametrize(
    ("absent", "line", "extra"),
    [
        ("typer", "--help", "convert"),
        ("brian2", "cross-check lenet5-mnist-8 --dataset digits --images 1 --backend brian2 --backend fast", "brian2"),
    ],
)
def test_the_command_says_it_in_one_line(absent: str, line: str, extra: str) -> None:
    found = without({absent}, "from converters.entry import main\nmain()", *line.split())
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        f'calif: {absent}: found that it is not installed; install it: pip install "calif-plugins[{extra}]"\n'
    )


def test_the_table_is_that_of_the_project() -> None:
    """Every extra that an error names exists, and brings the package."""
    own = {"PIL": "pillow", "sklearn": "scikit-learn"}
    for package, extra in EXTRAS.items():
        brought = [r.partition(">")[0].partition("<")[0] for r in PROJECT["optional-dependencies"][extra]]
        assert own.get(package, package) in brought


def test_every_package_that_is_imported_is_of_the_project_or_of_an_extra() -> None:
    own = {"calif_plugins", "converters"}
    base = {"numpy", "torch", "snntorch"}
    brought = {"google", "llvmlite", "triton"}  # by ONNX, Numba, and torch where it has kernels for it
    known = own | base | brought | ALL | sys.stdlib_module_names
    for path in [*ROOT.glob("calif_plugins/**/*.py"), *ROOT.glob("converters/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            unknown = {name.partition(".")[0] for name in names} - known
            assert not unknown, f"{path.name} imports {unknown}"


def test_one_version() -> None:
    import calif_plugins

    assert PROJECT["version"] == calif_plugins.__version__
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
