"""The import directions that keep the house in order, read from the syntax trees; and what imports pull in."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("calif_plugins/**/*.py"), *ROOT.glob("converters/**/*.py")])
# a framework is imported in its plugin, its backend or its front-end only
HOMES = {
    "brian2": ("calif_plugins/brian2", "converters/backends/brian2", "converters/commands/bench"),
    "snntorch": (
        "calif_plugins/snntorch",
        "converters/backends/snntorch",
        "converters/frontends/snntorch",
        "converters/benchmark/simulators",
        "converters/interop",
    ),
    "norse": ("calif_plugins/norse", "converters/benchmark/simulators", "converters/interop"),
    "spikingjelly": ("calif_plugins/spikingjelly", "converters/benchmark/simulators", "converters/interop"),
    "sinabs": ("calif_plugins/sinabs", "converters/benchmark/simulators", "converters/interop"),
    "brevitas": ("converters/frontends/brevitas", "converters/zoo/brevitas"),
    "onnx": ("converters/frontends/onnx/", "converters/onnx_export"),
    "onnxruntime": ("converters/frontends/onnx/",),
    "torchao": ("converters/frontends/pt2e", "converters/frontends/quantizer", "converters/frontends/level_quantiser"),
}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of all modules that a file imports; left out are those for type checkers alone, and in a module's
    ``__getattr__``, by which names are found at their former home."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.FunctionDef) and child.name == "__getattr__" and node is tree:
                continue
            if top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                whole = child.module or ""
                parts = (f"{whole}.{alias.name}" for alias in child.names)
                found.update(part if part in MODULES else whole for part in parts)
            visit(child)

    visit(tree)
    return found


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in FILES}
# single files that stand on wings; all others at the root are the pipeline's nouns
STANDING = {"cli", "entry"}
WINGS = sorted({p.parent.name for p in ROOT.glob("converters/*/__init__.py")})
# who may import whom: each wing may import itself, the neuron, and these; nothing at all may import what is above it
NOUNS = "nouns"
PIPELINE = (NOUNS, "console", "exact", "ports")  # the nouns, and what they are made of
MAY_IMPORT = {
    "calif_plugins": (),
    "console": (),
    "operations": ("errors", "reading"),
    "exact": ("errors", "operations"),
    "ports": ("errors", "operations", "reading"),
    "graphs": ("errors", "nodes", "operations"),
    NOUNS: ("console", "exact", "graphs", "operations", "ports"),
    "files": (*PIPELINE, "graphs", "operations"),
    "frontends": (
        "console",
        "errors",
        "exact",
        "graph_builder",
        "graphs",
        "operations",
        "ports",
        "quantised",
        "reading",
        "values",
    ),
    "calibration": ("errors", "frontends", "ports"),
    "backends": (*PIPELINE, "operations"),
    "lowering": (*PIPELINE, "graphs", "operations"),
    "measuring": (*PIPELINE, "backends", "files", "operations"),
    "zoo": (*PIPELINE, "files", "frontends", "operations"),
    "testing": (*PIPELINE, "backends", "operations"),
    "onnx_export": (*PIPELINE, "files", "graphs", "operations"),
    "interop": (*PIPELINE, "backends", "files", "graphs", "lowering", "measuring", "operations"),
    "reporting": (*PIPELINE, "backends", "files", "graphs", "measuring", "operations", "zoo"),
    "experiments": (*PIPELINE, "backends", "files", "measuring", "operations", "zoo"),
    "benchmark": (*PIPELINE, "backends", "experiments", "files", "lowering", "measuring", "operations", "zoo"),
    "commands": (
        *PIPELINE,
        "backends",
        "benchmark",
        "calibration",
        "experiments",
        "files",
        "frontends",
        "graphs",
        "interop",
        "lowering",
        "measuring",
        "onnx_export",
        "operations",
        "reporting",
        "zoo",
    ),
    "cli": ("commands", "console", "errors", "extras"),
    "entry": ("cli", "extras"),
}
# the front-end whose networks are Ca-LIF networks already
SPIKING_FRONTEND = ("graphs", "network", "nodes")


def wing(name: str) -> str:
    """Of a module: its wing's name, or ``nouns``."""
    package, _, rest = name.partition(".")
    own = rest.partition(".")[0]
    if package == "calif_plugins" or own in WINGS or own in STANDING:
        return package if package == "calif_plugins" else own
    return NOUNS


def own_imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules of ours that a file imports; the package that names all of them is left out."""
    return (imports(path, top_level_only) & MODULES) - {"converters", module(path)}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_who_may_import_whom(path: Path) -> None:
    here = module(path)
    if here == "converters":  # the public names: each from its home, when it is used
        return
    own = wing(here)
    allowed = {own, "calif_plugins", *MAY_IMPORT[own]}
    if here.startswith("converters.frontends.snntorch"):
        allowed |= set(SPIKING_FRONTEND)
    for other in own_imports(path):
        names = {wing(other), other.removeprefix("converters.").partition(".")[0]}
        assert names & allowed, f"{own} imports {wing(other)}: {here} imports {other}"


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """One circle of ``arrows``, or nothing.

    >>> circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}), circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    (['b', 'c', 'b'], [])
    """
    left = {a: set(bs) & set(arrows) for a, bs in arrows.items()}
    while ends := [a for a, bs in left.items() if not bs]:  # whatever imports nothing of the rest is in no circle
        left = {a: bs.difference(ends) for a, bs in left.items() if a not in ends}
    way = [min(left)] if left else []
    while way and way[-1] not in way[:-1]:
        way.append(min(left[way[-1]]))
    return way[way.index(way[-1]) :] if way else []


def test_no_circle_of_wings() -> None:
    """Not through imports inside functions either. A file at the root stands for itself."""
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        here, *there = (
            part.removeprefix("converters.").partition(".")[0] for part in (module(path), *own_imports(path))
        )
        arrows.setdefault(here, set()).update(set(there) - {here})
    assert circle(arrows) == []
    arrows["errors"].add("cli")
    assert circle(arrows), "one would be found"


def test_no_circle_of_files() -> None:
    assert circle({module(path): own_imports(path, top_level_only=True) for path in FILES}) == []


def test_every_wing_has_its_rule() -> None:
    there = {wing(name) for name in MODULES}
    assert there == set(MAY_IMPORT), "a new wing says what it may import, a wing that is gone has no rule"
    for own, others in MAY_IMPORT.items():
        assert own not in others
        assert all(f"converters.{x}" in MODULES or x in MAY_IMPORT for x in others), own


@pytest.mark.parametrize("path", FILES, ids=name)
def test_import_directions(path: Path) -> None:
    here, found = name(path), imports(path)
    ours = {m for m in found if m.split(".")[0] in ("calif_plugins", "converters")}
    if here.startswith("calif_plugins/"):
        assert not [m for m in ours if m.startswith("converters")], "the neuron knows nothing of converters"
        assert not [m for m in found if m.split(".")[0] in ("nir", "torchao", "brevitas")]
    if here.startswith("converters/backends/") and here != "converters/backends/__init__.py":
        stem = here.removesuffix(".py").replace("/", ".")
        kernels = ("converters.backends.charges", "converters.backends.integer_kernels")
        shared = ("converters.backends.contract", *kernels, stem.split("_")[0])
        others = [m for m in ours if m.startswith("converters.backends.") and not m.startswith(shared)]
        if not here.endswith("/self_check.py"):  # which is the dispatcher's, and holds results against one of them
            assert not others, "backends never see each other"
    for framework, homes in HOMES.items():
        if any(m.split(".")[0] == framework for m in found):
            assert here.startswith(homes), f"{framework} is imported outside of its home"


@pytest.mark.parametrize("package", ["converters", "calif_plugins", "converters.cli", "calif_plugins.reference"])
def test_imports_are_lazy(package: str) -> None:
    heavy = ["brian2", "norse", "spikingjelly", "sinabs", "brevitas", "torchao", "snntorch", "matplotlib"]
    code = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


STARTS = """
import sys
from converters.cli import main
code = []
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as stopped:
        code.append(stopped.code)
heavy = {"torch", "numpy", "scipy", "nir", "h5py", "numba", "matplotlib", "sklearn", "PIL", "brian2"}
print(code, sorted(m for m in sys.modules if m in heavy))
"""


def test_the_command_line_answers_before_it_imports() -> None:
    """Help, version and wrong options need none of the libraries that the work needs."""
    commands = ["demo", "train", "convert", "run", "sweep", "cross-check"]
    commands += ["parity", "lower", "inspect", "interop", "report", "bench", "reproduce"]
    right = ["--help", "--version", *(f"{c} --help" for c in commands)]
    wrong = ["", "nosuch", "--nosuch", *(f"{c} --nosuch" for c in commands), "run --window 0", "demo --levels x"]
    out = subprocess.run([sys.executable, "-c", STARTS, *right, *wrong], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.splitlines()[-1] == f"{[0] * len(right) + [2] * len(wrong)} []", out.stderr
    for command in commands:
        assert f"Usage: calif {command} " in out.stdout
    assert f"\ncalif {version('calif-plugins')}\n" in out.stdout


def test_public_names() -> None:
    """Names that others script against."""
    import calif_plugins
    import converters

    assert "CaLIFParameters" in calif_plugins.__all__
    from calif_plugins.encoding import isi_encode
    from calif_plugins.reference import closed_form, run, settle, step
    from calif_plugins.snntorch import CaLIF, reset, swap_neurons

    assert all(map(callable, (step, run, settle, closed_form, isi_encode, CaLIF, swap_neurons, reset)))
    import converters.cli  # whatever has been imported before: no submodule stands in a name's place

    for public in converters.__all__:
        assert callable(getattr(converters, public)), public


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_print_and_no_bare_assert_on_input(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert not [f for f in calls if isinstance(f, ast.Name) and f.id == "print"], (
        "output goes through rich, errors are raised"
    )


# an average pool: what it is, its verb, and one table per front-end; beside them, two lists of names
AVERAGE_POOLS = {
    "operations/__init__.py",
    "operations/pooling.py",
    "quantised.py",
    "frontends/brevitas_layers.py",
    "frontends/onnx/pooling.py",
    "frontends/pooling_operations.py",
    "frontends/pooling_verbs.py",
    "frontends/pt2e_handlers.py",
    "frontends/snntorch_chain.py",
    "onnx_export/pooling.py",
}
NETWORKS = ("benchmark/random_networks.py", "testing/", "zoo/")


def test_what_an_average_pool_touches() -> None:
    """But for networks that have one."""
    there = {path.relative_to(ROOT / "converters").as_posix(): path for path in ROOT.glob("converters/**/*.py")}
    word = re.compile(r"avg_?pool|average_?pool|SumPool", re.IGNORECASE)
    naming = {name for name, path in there.items() if word.search(path.read_text(encoding="utf-8"))}
    assert {name for name in naming if not name.startswith(NETWORKS)} == AVERAGE_POOLS
