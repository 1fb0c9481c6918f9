"""Which extra of this package brings an optional package, for the error of whoever lacks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from converters.errors import MissingExtraError

__all__ = ["EXTRAS", "missing", "naming_extras"]

EXTRAS: dict[str, str] = {
    **dict.fromkeys(
        ("h5py", "markupsafe", "nir", "pydantic", "rich", "safetensors", "scipy", "torchao", "typer"), "convert"
    ),
    **dict.fromkeys(("PIL", "sklearn", "torchvision"), "data"),
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    "brevitas": "brevitas",
    "brian2": "brian2",
    "matplotlib": "plot",
    "norse": "norse",
    "numba": "fast",
    "spikingjelly": "spikingjelly",
}
"""Extra by the name under which a package is imported."""


def missing(error: ImportError) -> MissingExtraError | None:
    """The error that names the extra, where a package of one is what could not be found; else None.

    >>> print(missing(ModuleNotFoundError("No module named 'brian2'", name="brian2")))
    brian2: found that it is not installed; install it: pip install "calif-plugins[brian2]"
    >>> missing(ModuleNotFoundError("No module named 'nosuch'", name="nosuch"))
    """
    package = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or isinstance(error, MissingExtraError) or package not in EXTRAS:
        return None
    return MissingExtraError(package, EXTRAS[package])


@contextmanager
def naming_extras() -> Iterator[None]:
    """For a block with imports in it: what could not be found names its extra.

    >>> with naming_extras():
    ...     raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets")
    Traceback (most recent call last):
    converters.errors.MissingExtraError: sklearn: found that it is not installed; install it: pip install ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        found = missing(error)
        if found is None:
            raise
        raise found from None
