"""ONNX models from strangers: one line each, in bounded memory and time, and nothing is read but the model's folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.command_line import Calif
from tests.hostile.limited import ROOT, Outcome
from tests.hostile.onnx_models import MODELS, good, outside
from tests.hostile.onnx_structures import changed_models

PROGRAM = """
import json, pathlib, resource, sys, time, warnings
import converters
from converters.errors import ConversionError

converters.from_onnx(sys.argv[1])  # what is imported when it is first needed is imported now
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
for path in json.loads(sys.stdin.read()):
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1_500_000_000, hard))
    start = time.process_time()
    try:
        q = converters.from_onnx(path)
        outcome = f"read {len(q.layers)}"
    except ConversionError as error:
        outcome = str(error)
    except BaseException as error:
        outcome = f"escaped: {type(error).__name__}: {error}"
    print(json.dumps([outcome, time.process_time() - start]), flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
"""
SECONDS = 20.0  # of the processor
FLIPPED = 30
RESTRUCTURED = 60


def read_all(folder: Path, paths: Sequence[Path]) -> list[Outcome]:
    """Each file, in one process that has 1.5 GB more than it had; a process that dies leaves the list short."""
    first = folder / "good.onnx"
    first.write_bytes(good().SerializeToString())
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(first)], input=json.dumps(list(map(str, paths))), env=env,
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]


def judged(names: Sequence[str], outcomes: Sequence[Outcome]) -> dict[str, str]:
    """What was said of each; that it is one line, and that it took no longer than it may."""
    assert len(outcomes) == len(names), f"the process died of {names[len(outcomes)]}"
    for name, outcome in zip(names, outcomes, strict=True):
        assert "escaped" not in outcome.said, f"{name}: {outcome.said}"
        assert "\n" not in outcome.said, name
        assert "\x1b" not in outcome.said, name
        assert len(outcome.said) < 1500, name
        assert outcome.seconds < SECONDS, name
    return {name: o.said for name, o in zip(names, outcomes, strict=True)}


def test_models_that_are_wrong(tmp_path: Path) -> None:
    paths = []
    for k, change in enumerate(MODELS.values()):
        model = good()
        change(model)
        paths.append(tmp_path / f"{k}.onnx")
        paths[-1].write_bytes(model.SerializeToString())
    said = judged(list(MODELS), read_all(tmp_path, paths))
    read = {name for name, text in said.items() if text.startswith("read")}
    assert read == set(), "each is refused"
    assert all(": found " in text for text in said.values())


def test_files_that_are_no_models(tmp_path: Path) -> None:
    whole = good().SerializeToString()
    cases = {f"cut at {n}": whole[:n] for n in (0, 1, 2, 7, 40, len(whole) // 2, len(whole) - 1)}
    cases |= {"text": b"not a model\n" * 100, "zeros": bytes(10_000), "a checkpoint": b"\x89HDF\r\n\x1a\n" + bytes(900)}
    paths = [tmp_path / f"{k}.onnx" for k in range(len(cases))]
    for path, data in zip(paths, cases.values(), strict=True):
        path.write_bytes(data)
    os.mkfifo(tmp_path / "pipe.onnx")
    paths += [tmp_path / "pipe.onnx", tmp_path, Path("/dev/zero"), tmp_path / "none.onnx"]
    said = judged([*cases, "a pipe", "a folder", "a device", "no file"], read_all(tmp_path, paths))
    assert not [name for name, text in said.items() if text.startswith("read")]


def test_weights_outside_of_the_folder(tmp_path: Path) -> None:
    """Neither up, nor from the root, nor through a link; and no more bytes than there are."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(256)))
    inner = tmp_path / "model"
    cases: dict[str, dict[str, str]] = {
        "up": {"location": "../secret"},
        "from the root": {"location": str(secret)},
        "through a link": {"location": "link"},
        "through a linked folder": {"location": "linked/secret"},
        "a drive": {"location": "C:/secret"},
        "nothing": {"location": ""},
        "a pipe": {"location": "pipe"},
        "no file": {"location": "other.bin"},
        "an offset beyond the end": {"location": "w.bin", "offset": "1000000"},
        "a length that is another": {"location": "w.bin", "length": "999999999999"},
        "an offset that is none": {"location": "w.bin", "offset": "-1"},
        "a length of a page of digits": {"location": "w.bin", "length": "9" * 4000},
    }
    paths = []
    for k, options in enumerate(cases.values()):
        folder = inner / str(k)
        folder.mkdir(parents=True)
        (folder / "link").symlink_to(secret)
        (folder / "linked").symlink_to(tmp_path)
        os.mkfifo(folder / "pipe")
        paths.append(outside(folder, **options))
    own = inner / "own"
    own.mkdir()
    paths.append(outside(own, "w.bin"))
    said = judged([*cases, "its own"], read_all(tmp_path, paths))
    assert {name for name, text in said.items() if text.startswith("read")} == {"its own"}


def _flipped(count: int, seed: int) -> list[bytes]:
    """Copies of a model with bits turned over, bytes cut out, doubled, or set to extremes."""
    rng, whole, found = random.Random(seed), good().SerializeToString(), []
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 5])):
            at, kind = rng.randrange(len(data)), rng.randrange(5)
            if kind < 2:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                data[at] = rng.choice([0, 1, 127, 128, 255])
            elif kind == 3:
                del data[at : at + rng.randrange(1, 9)]
            else:
                data[at:at] = data[at : at + rng.randrange(1, 9)]
        found.append(bytes(data))
    return found


def _some_read(folder: Path, models: Iterable[tuple[str, bytes]]) -> None:
    """Each is read, or refused in a line; some are and some are not, so that both are seen."""
    names, paths = [], []
    for k, (case, data) in enumerate(models):
        names.append(f"{case}, {k}")
        paths.append(folder / f"{k}.onnx")
        paths[-1].write_bytes(data)
    said = judged(names, read_all(folder, paths))
    assert any(text.startswith("read") for text in said.values()), "some changes are of names and weights"
    assert any(not text.startswith("read") for text in said.values())


def _fuzzed(folder: Path, count: int, seed: int) -> None:
    _some_read(folder, (("flipped", data) for data in _flipped(count, seed)))


def test_bits_turned_over(tmp_path: Path) -> None:
    _fuzzed(tmp_path, FLIPPED, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_bits_turned_over(tmp_path: Path, seed: int) -> None:
    _fuzzed(tmp_path, 3000, seed)


def test_structures_that_are_wrong(tmp_path: Path) -> None:
    _some_read(tmp_path, changed_models(RESTRUCTURED, 0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_structures_that_are_wrong(tmp_path: Path, seed: int) -> None:
    _some_read(tmp_path, changed_models(3000, seed))


@pytest.mark.parametrize("command", ["convert", "inspect", "run", "parity", "lower"])
def test_commands_say_one_line_and_end_with_2(command: str, tmp_path: Path, calif: Calif) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(good().SerializeToString()[:200])
    code, out, err = calif(command, path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"calif: {path}: found no ONNX model")


@pytest.mark.parametrize("name", ["a cycle", "an unknown domain", "open sizes", "a billion values declared"])
def test_one_line_of_each_kind(name: str, tmp_path: Path, calif: Calif) -> None:
    model = good()
    MODELS[name](model)
    path = tmp_path / "wrong.onnx"
    path.write_bytes(model.SerializeToString())
    code, out, err = calif("convert", path, "--out", tmp_path / "a.nir")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "a.nir").exists()
