"""A run's JSON from a stranger: no value becomes markup, a fault is one line with file and field, memory is bounded."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
import converters.reporting.page
from converters.errors import FileFormatError
from converters.measuring.measure import measure
from converters.reporting.details import describe
from converters.reporting.page import load_run, render
from converters.reporting.schema import check_run
from converters.reporting.sections import sections
from converters.zoo.images import Images
from tests.converters.sample_graphs import lenet
from tests.converters.task_graphs import of, several

EVIL = "\"'></title></svg></script><script>alert(1)</script><img src=x onerror=alert(1)><!--"
Place = tuple[int | str, ...]


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    """A run in which every part of the page has something to show."""
    q = lenet()
    data = Images(torch.rand(4, 1, 8, 8), torch.arange(4), 5)
    graphs = {t: converters.to_nir(q, T=t) for t in (4, 8)}
    found: dict[str, Any] = {"network": "n", "dataset": "d", "toolkit": "t", "levels": 15, "weight_bits": 8, "seed": 0}
    found |= {"float_accuracy": 0.5, "quantised_accuracy": 0.5, "nir_file": "n.nir", "checkpoint": "c"}
    found["windows"] = [measure(g, q, data, phase=p).as_dict() for g in graphs.values() for p in ("settle", "none")]
    found["windows"][0]["anytime"] = [0.25, 0.5]
    check = converters.cross_check(graphs[4], data.pixels[:1])
    found |= {"cross_check": check.summary(), "checks": [check.as_dict()]}
    row = {"simulator": "s", "version": "1", "route": "chain", "layers": 3, "spikes_compared": 5, "differing": 0}
    found["interop"] = found["rows"] = [{**row, "seconds": 0.5, "note": "none"}]
    found |= {"command": "calif run", "report_command": "calif report", "date": "today"}
    found["details"] = describe([(g, "settle") for g in graphs.values()], q, data, shown=2, wrong=[[1, 2, 3]])
    found["details"]["names"] = ["zero", "one", "two", "three", "four"]
    q = several()
    x = torch.rand(3, *q.input.shape)
    for name in ("map", "numbers"):
        one = of(q, name)
        graph = converters.to_nir(one)
        values = q.returned(q.execute(x))[name]
        labels = values.argmax(1) if name == "map" else values
        data = Images(x, labels, 0)
        found["windows"][0]["outputs"] += measure(graph, one, data).as_dict()["outputs"]
        found["details"]["answers"] += describe([(graph, "settle")], one, data)["answers"]
    found["windows"][3]["outputs"][0] |= {"confusion": [], "confused": [[0, 1, 5]]}
    return json.loads(json.dumps(found))


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every leaf and every name, one for each kind: of a list, the first element stands for all."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*here, name))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*here, 0))
    else:
        yield here


def changed(value: Any, place: Place, new: Any) -> Any:
    """A copy with something else at one place."""
    if not place:
        return new
    key, *rest = place
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = changed(value[key], tuple(rest), new)
    return copy


def renamed(value: Any, place: Place, name: str) -> Any:
    """A copy with another name for an object's entry."""
    if len(place) == 1:
        return {name if k == place[0] else k: v for k, v in value.items()}
    key, *rest = place
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = renamed(value[key], tuple(rest), name)
    return copy


# --- markup ----------------------------------------------------------------------------------------------


class Whole(int):
    """A number that is written as something else, as no check of types would let it: the escaping is tested alone."""

    text = ""

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return self.text


class Fraction(float):
    text = ""
    __str__ = __repr__ = Whole.__str__
    __format__ = Whole.__format__


def disguised(value: Any, text: str) -> Any:
    """The same value, written as ``text``."""
    if isinstance(value, bool) or value is None:
        return value
    kind = {int: Whole, float: Fraction}.get(type(value))
    if kind is None:
        return text
    found = kind(value)
    found.text = text
    return found


class Skeleton(HTMLParser):
    """The page without its texts and the values of its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[tuple[str, ...]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.parts.append((tag, *(name for name, _ in attributes)))

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(("/" + tag,))

    def handle_comment(self, data: str) -> None:
        self.parts.append(("comment",))


STEERING = ("phase", "kind", "task")  # of a few words, by which the page is built; the schema lets no others in


CODED = ("spikes", "picture", "label", "prediction")  # letters and digits of base64


def test_no_field_becomes_markup(run: dict[str, Any]) -> None:
    """Each field in turn is written as an attack; the page is that of harmless letters there."""
    whole = Skeleton(sections(run)[1]).parts
    tried = written = 0
    for place in places(run):
        value: Any = run
        for key in place:
            value = value[key]
        if place[-1] in STEERING or value in (None, [], {}):
            continue
        page = sections(changed(run, place, disguised(value, EVIL)))[1]
        assert Skeleton(page).parts == whole, place
        assert "<img src=x" not in page, place
        tried, written = tried + 1, written + ("&lt;img src=x" in page)
    assert tried > 90
    assert written > 40  # the others are added up, or not shown


@pytest.mark.parametrize("text", [EVIL, "<script>", '" onclick="alert(1)', "&lt;b&gt;", "{{data}}", "{0}"])
def test_all_texts_at_once(run: dict[str, Any], text: str) -> None:
    """Texts and names of a file that the schema lets in, through the whole page."""
    bad = run
    for place in places(run):
        value: Any = run
        for key in place:
            value = value[key]
        free = isinstance(value, str) and place[-1] not in (*STEERING, *CODED) and "traces" not in place
        bad = changed(bad, place, text) if free else bad
    for name in ("torch", "numpy"):
        bad = renamed(bad, ("details", "versions", name), f"{text}{name}")
    bad = renamed(bad, ("checks", 0, "layers", "brian2"), text)
    pages = [render(b) for b in (bad, json.loads(json.dumps(bad).replace(json.dumps(text)[1:-1], "x" * len(text))))]
    assert Skeleton(pages[0]).parts == Skeleton(pages[1]).parts
    assert pages[0].count("<script") == pages[0].count("</script>") == 2
    data = pages[0].split('<script type="application/json" id="run">')[1].split("</script>")[0]
    assert json.loads(data) == bad


def test_layers_of_a_trace_with_such_names(run: dict[str, Any]) -> None:
    text = json.dumps(run).replace(json.dumps("conv"), json.dumps(EVIL))
    page = render(json.loads(text))
    assert Skeleton(page).parts == Skeleton(render(run)).parts


def test_the_page_runs_no_script_but_its_own(run: dict[str, Any]) -> None:
    page = render(run)
    assert "unsafe" not in page
    assert page.count("sha256-") == 2
    assert " onclick=" not in page
    assert " style=" not in page
    assert "innerHTML" not in page


REPORT = sorted(Path(converters.reporting.page.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", REPORT, ids=lambda p: p.name)
def test_markup_stands_in_constants(path: Path) -> None:
    """What is put together of values goes through ``html``, whose first argument nobody but the source writes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    for call in calls:
        if call.func.id == "html":  # type: ignore[attr-defined]
            assert isinstance(call.args[0], ast.Constant | ast.Subscript | ast.Name), ast.unparse(call)
        if call.func.id == "Markup" and path.name != "markup.py":  # type: ignore[attr-defined]
            assert isinstance(call.args[0], ast.Constant), ast.unparse(call)
    mixed = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
    assert not [
        ast.unparse(n) for n in mixed if "<" in "".join(str(v.value) for v in n.values if isinstance(v, ast.Constant))
    ]


# --- types -----------------------------------------------------------------------------------------------

WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    0.5,
    10**400,
    2**63,
    float("nan"),
    float("-inf"),
    1e308,
    "x",
    "\ud800",
    [],
    {},
    [[]],
    {"": 0},
]


def read(run: Any, path: Path) -> str:
    """The page, or the message of the one error that may come."""
    path.write_text(json.dumps(run), encoding="utf-8")
    try:
        return render(load_run([path]))
    except FileFormatError as error:
        return one_line(error, str(path))


def one_line(error: FileFormatError, where: str) -> str:
    message = str(error)
    assert message.startswith(f"{where}: found "), message
    assert "\n" not in message
    assert len(message) < 700
    return message


def test_any_wrong_value_at_any_place_is_one_line(run: dict[str, Any]) -> None:
    """What the check of types lets in makes a page."""
    (run := dict(run)).pop("rows")
    refused = 0
    for place in places(run):
        for new in WRONG:
            bad = changed(run, place, new)
            try:
                check_run(bad, "r.json")
            except FileFormatError as error:
                one_line(error, "r.json")
                refused += 1
            else:
                assert sections(bad)
    assert refused > 1000


def zeroed(value: Any, name: str = "") -> Any:
    """The same with 0 in the place of every number that is no size."""
    if isinstance(value, dict):
        return {k: v if k in ("T", "shape", "step", "traces") else zeroed(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [zeroed(v, name) for v in value]
    return value if isinstance(value, bool | str) or value is None else 0


def test_a_run_of_zeros_makes_a_page(run: dict[str, Any]) -> None:
    """Of a silent network, of layers without synapses: all that may be 0 is, and nothing divides by it."""
    (bad := dict(run)).pop("rows")
    bad = zeroed(bad)
    check_run(bad, "r.json")
    assert sections(bad)


@pytest.mark.parametrize(
    ("place", "new", "message"),
    [
        (("windows", 0, "images"), "<b>", "windows[0].images = '<b>' (it should be a valid integer)"),
        (("windows", 1, "T"), 10**400, "windows[1].T = 1000"),
        (("windows", 0, "compared_with"), 3, "windows[0].compared_with = 3 (it should be a valid string)"),
        (("network",), "\ud800", "network = '\\ud800' (half of a surrogate pair)"),
        (("details", "traces", "T"), "8", "details.traces.T = '8'"),
        (("details", "windows", 0, "layers", 1, "shape"), "4x4", "details.windows[0].layers[1].shape = '4x4'"),
        (("details", "windows", 0, "layers", 1, "fan_in"), float("nan"), "layers[1].fan_in = nan (a finite number"),
        (("details", "traces", "images", 0, "steps"), 2**31, "details.traces: images[0].output has"),
        (("details", "traces", "images", 0, "layers", 0, "spikes"), "AAAA", "images[0] has 4 letters for"),
        (("details", "traces", "layers", 0, "channels_shown"), 2**40, "details.traces: images[0] has"),
        (("details", "traces", "images", 0, "pixels"), [[1]], "images[0].pixels are not numbers of the input's shape"),
        (("checks", 0, "layers", "brian2", 0, "steps"), None, "checks[0].layers.brian2[0].steps = None"),
        (("cross_check", "images"), -1, "cross_check.images = -1"),
        (("anything", ), {"nested": [1e400]}, "anything.nested[0] = inf"),
    ],
)  # fmt: skip
def test_the_field_is_named(run: dict[str, Any], tmp_path: Path, place: Place, new: Any, message: str) -> None:
    bad = changed(run, place, new) if place[0] in run else {**run, str(place[0]): new}
    told = read(bad, tmp_path / "r.json")
    assert message in told
    assert told.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"windows": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "a[0][0]..., nested more than 32 deep"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "no JSON (Exceeds the limit"),
        (b'{"seed": NaN}', "seed = nan"),
        (b'{"\\ud800": 1}', "half of a surrogate pair"),
        (b'{"a": [' + b"1," * 2_000_001 + b"1]}", "2,000,004 values"),
        (b"\xef\xbb\xbf{}", "no windows"),
        (b"", "no JSON"),
    ],
)
def test_files_that_are_no_run(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as told:
        load_run([path])
    assert message in str(told.value)
    assert str(told.value).startswith(f"{path}: ")


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_several_wrong_values(
    run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bad = run
    for place in data.draw(st.lists(st.sampled_from(list(places(run))), max_size=3)):
        bad = changed(bad, place, data.draw(JSONS))
    page = read(bad, tmp_path_factory.getbasetemp() / "several.json")
    assert page.startswith("<!doctype html>") or "found " in page


def test_what_commands_write_is_let_in(run: dict[str, Any]) -> None:
    check_run(run, "run")
    assert render(run)


# --- files and memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/stdin", "fifo", "folder", "fifo in a folder", "link to a fifo"])
def test_no_regular_file(calif: Any, tmp_path: Path, kind: str) -> None:
    path = Path(kind)
    if not path.is_absolute():
        path = tmp_path / "r.json"
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo in a folder":
            path.mkdir()
            os.mkfifo(path / "run.json")
        else:
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to("pipe")
    with not_longer_than(10):
        code, out, told = calif("report", path)
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert told.startswith(f"calif: {path}")


@contextmanager
def not_longer_than(seconds: int) -> Iterator[None]:
    """A pipe without a writer is waited for, a device has no end: neither may stop the tests."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


BOUNDED = """
import resource, sys
from pathlib import Path
from converters.errors import FileFormatError
from converters.reporting.page import load_run
for path in sys.argv[1:]:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = now + 3 * Path(path).stat().st_size + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        load_run([path])
    except FileFormatError as error:
        print(error)
"""
INNER = [b"{},", b"0.5,", b'"\\ud83d\\ude00",']


def test_memory_is_bounded(tmp_path: Path) -> None:
    """As many values as are parsed, of each kind: at most three times the file's size and 200 MB."""
    paths = [tmp_path / f"{k}.json" for k in range(len(INNER))]
    for path, inner in zip(paths, INNER, strict=True):
        values = sum(map(inner.count, b",[{:"))
        path.write_bytes(b'{"windows": [], "a": [' + inner * (1_999_900 // values) + b"0]}")
    done = subprocess.run([sys.executable, "-c", BOUNDED, *paths], capture_output=True, text=True, timeout=120)
    told = [f"{path}: found no windows; give" for path in paths]
    assert [line.split(" what calif")[0] for line in done.stdout.splitlines()] == told, done.stderr[-500:]


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)  # of no blocks
    with pytest.raises(FileFormatError, match=r"found 10,737,418,240 bytes; at most 268,435,456 are read"):
        load_run([path])
