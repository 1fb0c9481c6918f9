"""Mutated ``.nir`` files for the reader (:mod:`.fuzz_mutations`). Exits 0 if every file was handled.

    python -m tests.converters.files.fuzz_reader COUNT SEED

Handled means: a graph, the same one when it is read again, or a FileFormatError of one line; then a network, or a
ConversionError. Memory ends at 3 times ``max_bytes`` and 200 MB beyond what the process had before the file, a file
takes at most ``SLOW`` seconds of the processor, and an audit hook reports anything that would be executed, imported or
opened for writing while it is read.
"""

from __future__ import annotations

import contextlib
import encodings.ascii
import encodings.latin_1
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import converters
from converters.errors import ConversionError, FileFormatError
from converters.network import Network
from converters.testing.networks import NETWORKS
from tests.converters.files.fuzz_mutations import FAMILIES
from tests.converters.sample_graphs import GRAPHS
from tests.hostile.digests import digest

LIMIT = 64 * 2**20  # what read() may allocate here
SLOW = 5.0
FORMATS = ("earliest", "v108", "latest")
COUNTING = ("heads", "two inputs", "maxima", "levels", "gated", "normed")  # what has tables, indices and outputs
assert encodings.ascii  # imported when they are first used
assert encodings.latin_1
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "exec", "compile", "pickle.find_class",
             "ctypes.dlopen", "import", "socket.connect", "shutil.", "os.remove", "os.rename")  # fmt: skip


class Watch:
    """What happens while a file is read."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if self.on and event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {str(args)[:100]}")


class Wrong(Exception):
    """What must not happen."""


@contextlib.contextmanager
def bounded(watch: Watch) -> Any:
    """Limits of memory and time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * LIMIT + 200 * 10**6, hard))
    signal.setitimer(signal.ITIMER_PROF, SLOW)
    watch.on = True
    try:
        yield
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    if watch.seen:
        raise Wrong(str(watch.seen))


def _slow(*_: object) -> None:
    raise Wrong(f"more than {SLOW} s")


def outcome(path: Path) -> str:
    """What came of reading a file twice."""
    found = []
    for _ in range(2):
        try:
            graph = converters.read(path, max_bytes=LIMIT)
            found.append(digest(graph))
        except FileFormatError as error:
            if "\n" in str(error) or len(str(error)) > 2000:
                raise Wrong(f"message of several lines, or endless: {str(error)[:300]!r}") from None
            found.append(str(error))
            graph = None
    if found[0] != found[1]:
        raise Wrong(f"another result: {found}")
    if graph is None:
        return "refused"
    with contextlib.suppress(ConversionError):
        Network.from_graph(graph)
    return "read"


def good_files(folder: Path) -> list[Path]:
    """Networks of all kinds, in all formats, in many chunks and in few."""
    found = []
    for name, make in {**GRAPHS, **{name: NETWORKS[name] for name in COUNTING}}.items():
        path = folder / f"{name}.nir"
        converters.write(path, converters.to_nir(make(), T=15))
        for libver in FORMATS:
            found.append(folder / f"{name}.{libver}.nir")
            with h5py.File(path) as old, h5py.File(found[-1], "w", libver=libver) as new:
                _copy(old, new, small=len(found) % 2 == 0)
            if outcome(found[-1]) != "read":  # and whatever is imported when it is needed is imported now
                raise Wrong(f"{found[-1]} cannot be read")
    return found


def _copy(old: h5py.Group, new: h5py.Group, small: bool) -> None:
    for name, item in old.items():
        if isinstance(item, h5py.Group):
            _copy(item, new.create_group(name), small)
        elif item.shape and small:
            chunks = tuple(-(-n // 3) for n in item.shape)
            new.create_dataset(name, data=item[()], dtype=item.dtype, chunks=chunks, compression="gzip", shuffle=True)
        else:
            new.create_dataset(name, data=item[()], dtype=item.dtype, compression=item.compression)


def main(count: int, seed: int) -> int:
    rng = random.Random(seed)
    np.random.seed(seed)  # noqa: NPY002
    kinds: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    watch = Watch()
    signal.signal(signal.SIGPROF, _slow)
    with tempfile.TemporaryDirectory() as folder:
        seeds, victim = good_files(Path(folder)), Path(folder) / "victim.nir"
        for k in range(count):
            shutil.copy(rng.choice(seeds), victim)
            mutate = rng.choice(FAMILIES)
            try:
                kind = mutate(victim, rng)
                if rng.random() < 0.1:
                    kind = f"{kind}, and {FAMILIES[1](victim, rng)}"
            except (ValueError, OSError, RuntimeError, KeyError, TypeError):
                kind = f"not written: {mutate.__name__}"  # HDF5 itself refused to make such a file
            kinds[kind.split(",")[0]] += 1
            try:
                with bounded(watch):
                    outcomes[outcome(victim)] += 1
            except BaseException as error:
                traceback.print_exc(limit=-6)
                kept = Path(tempfile.gettempdir()) / f"calif-fuzz-{seed}-{k}.nir"
                shutil.copy(victim, kept)
                sys.stderr.write(f"file {k} ({kind}), kept as {kept}: {type(error).__name__}: {error}\n")
                return 1
    sys.stdout.write(f"{count} files: {dict(sorted(outcomes.items()))}; {dict(sorted(kinds.items()))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
