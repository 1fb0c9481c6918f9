"""The wheel, built and installed beside nothing but its dependencies, and used in another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from converters.zoo.named import REPOSITORY, find_checkpoint, names

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 5_000_000  # bytes


def run(*command: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd, env=own)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows: nothing that lies about here gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    run("git", "checkout-index", "--all", f"--prefix={folder}/source/", cwd=ROOT).check_returncode()
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"]
    built = run(*build, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stderr[-2000:]
    (found,) = (folder / "dist").glob("*.whl")
    (source,) = (folder / "dist").glob("*.tar.gz")
    assert source.stat().st_size < LARGEST
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel, and with the packages that are installed here, but for this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    inside = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    here = Path(sysconfig.get_path("purelib"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps", wheel], check=True
    )
    assert (inside / "converters").is_dir(), "installed"
    # searched behind the environment's own; the .pth of an editable install there is not read
    (inside / "dependencies.pth").write_text(f"{here}\n")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_what_is_in_it(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < LARGEST
    shipped = sorted(Path(n).name for n in inside if "/checkpoints/" in n)
    assert shipped
    assert all(n.startswith("lenet5-") for n in shipped)
    assert "converters/reporting/report_template.html" in inside
    assert "converters/py.typed" in inside
    assert not [n for n in inside if n.split("/")[0] in ("tests", "docs", "tutorials", "checkpoints")]


@pytest.mark.slow
def test_the_demo_from_another_folder(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import converters; print(converters.__file__)", cwd=tmp_path)
    assert str(python.parents[1]) in where.stdout, "it is the installed one"
    made = run(python.parent / "calif", "demo", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert [row["count_mismatches"] for row in found["windows"]] == [0] * len(found["windows"])
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 10_000


@pytest.fixture(scope="module", params=["the neuron", "everything"])
def fresh(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An environment with nothing in it but pip and what pip brings with the wheel, from wherever pip looks."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=True)
    wanted = str(wheel) if request.param == "the neuron" else f"{wheel}[data,brian2,fast]"
    installed = run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wanted, cwd=folder)
    assert installed.returncode == 0, installed.stderr[-2000:]
    return request.param, folder / "bin" / "python"


NEURON = """
import sys
import torch
from calif_plugins.snntorch import CaLIF
net = torch.nn.Sequential(torch.nn.Linear(10, 20), CaLIF(threshold=1.0, y_max=127, init_hidden=True))
assert set(net(torch.randn(4, 10)).unique().tolist()) <= {-1, 0, 1}
print(*sorted({m.partition(".")[0] for m in sys.modules}))
"""
HEAVY = {"torchao", "torchvision", "nir", "h5py", "scipy", "brian2", "brevitas", "matplotlib", "typer"}


@pytest.mark.slow
def test_into_an_empty_environment(fresh: tuple[str, Path], tmp_path: Path) -> None:
    """Packages are downloaded, or come from pip's cache."""
    what, python = fresh
    neuron = run(python, "-c", NEURON, cwd=tmp_path)
    assert neuron.returncode == 0, neuron.stderr[-2000:]
    imported = set(neuron.stdout.split())
    assert "converters" not in imported
    made = run(python.parent / "calif", "demo", "--json", cwd=tmp_path)
    if what == "the neuron":
        assert not HEAVY & imported  # where they are installed, snnTorch itself imports some
        assert made.returncode == 2
        assert 'pip install "calif-plugins[convert]"' in made.stderr
        assert len(made.stderr.splitlines()) == 1
        return
    assert made.returncode == 0, made.stderr[-2000:]
    found = json.loads(made.stdout)
    assert [row["count_mismatches"] for row in found["windows"]] == [0] * len(found["windows"])
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


@pytest.mark.slow
def test_checkpoints_that_do_not_ship_say_where_they_are(python: Path, tmp_path: Path) -> None:
    calif = python.parent / "calif"
    assert run(calif, "inspect", "lenet5-mnist-8", cwd=tmp_path).returncode == 0
    asked = run(calif, "inspect", "vgg9-mnist-127", cwd=tmp_path)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr == (
        "calif: vgg9-mnist-127: found a checkpoint that is not installed with the package; get "
        "checkpoints/vgg9-mnist-127.safetensors.xz of the repository, and give its path\n"
    )
    path = ROOT / "checkpoints" / "lenet5x4-cifar10-127.safetensors.xz"
    assert run(calif, "inspect", path, cwd=tmp_path).returncode == 0


def test_in_a_clone_all_of_them_are_found_by_name() -> None:
    """And what the error for others lists is what there is."""
    assert sorted(REPOSITORY) == sorted(p.name.partition(".")[0] for p in (ROOT / "checkpoints").glob("*.xz"))
    assert set(REPOSITORY) < set(names())
    for name in names():
        assert find_checkpoint(name).is_file()
