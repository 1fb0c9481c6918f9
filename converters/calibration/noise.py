"""Where a quantised network's errors arise: signal to noise, layer by layer, against the float network."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from converters.calibration.images import Calibration, Images
from converters.calibration.walking import Walk, as_it_is, quantisers
from converters.errors import ConversionError
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.pt2e import prepare_qat
from converters.frontends.pt2e_module import PreparedModel
from converters.frontends.pt2e_reader import read_prepared

__all__ = ["LayerNoise", "QuantisationReport", "measure_noise", "quantisation_noise"]

_OUTPUT = "output"


@dataclass(frozen=True)
class LayerNoise:
    """Signal to noise of a layer's values, in decibels: ``10 log10(sum x^2 / sum (x_quantised - x)^2)``.

    Attributes
    ----------
    layer : str
        As in the quantised graph; the input, and ``output`` for what the network returns.
    snr : float
        In the quantised network: what has gathered so far. Infinite where nothing differs.
    own_snr : float or None
        Of this layer alone, which is given the float network's values: its weights, and the levels of its result.
        None of an output that is a layer's result, in whose row it is.
    """

    layer: str
    snr: float
    own_snr: float | None


@dataclass(frozen=True)
class QuantisationReport:
    """What quantisation did to a network, on some images. As a string, a table.

    Attributes
    ----------
    images : int
    layers : tuple of LayerNoise
        In graph order, the network's output last.
    agreement : float or None
        Share of the images whose largest output is at the same place; None for outputs that are not ``(N, classes)``.
    float_accuracy, quantised_accuracy : float or None
        Where labels were given.
    """

    images: int
    layers: tuple[LayerNoise, ...]
    agreement: float | None
    float_accuracy: float | None = None
    quantised_accuracy: float | None = None

    @property
    def lost(self) -> float | None:
        """How much of the accuracy is lost, as a share of the images."""
        if self.float_accuracy is None or self.quantised_accuracy is None:
            return None
        return self.float_accuracy - self.quantised_accuracy

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON, which has no infinite numbers: there they are None."""
        layers = [{k: None if v == math.inf else v for k, v in asdict(row).items()} for row in self.layers]
        return {**asdict(self), "layers": layers, "lost": self.lost}

    def __str__(self) -> str:
        width = max(len(row.layer) for row in self.layers)
        lines = [f"{'signal to noise, dB':<{width}}  network  layer alone"]
        lines += [f"{row.layer:<{width}}  {_decibels(row.snr):>7}  {_decibels(row.own_snr):>11}" for row in self.layers]
        if self.agreement is not None:
            lines.append(
                f"predictions equal to the float network's: {100 * self.agreement:.2f} % of {self.images:,} images"
            )
        if self.float_accuracy is not None and self.quantised_accuracy is not None:
            lost = 100 * (self.float_accuracy - self.quantised_accuracy)
            lines.append(
                f"accuracy: float {100 * self.float_accuracy:.2f} %, quantised {100 * self.quantised_accuracy:.2f} %; "
                f"{lost:.2f} points lost"
            )
        return "\n".join(lines)


def _decibels(snr: float | None) -> str:
    return "" if snr is None else "exact" if snr == math.inf else f"{snr:.1f}"


def quantisation_noise(
    model: nn.Module, prepared: nn.Module, images: Images, labels: Tensor | None = None, *, batch: int = 32
) -> QuantisationReport:
    """Compare a quantised network with the float network that it was made from, layer by layer.

    Parameters
    ----------
    model : nn.Module
        The float network; it is run in evaluation mode, and left as it is.
    prepared : nn.Module
        Of :func:`~converters.quantise` or :func:`~converters.prepare_qat`, with all ranges set.
    images : float tensor ``(N, C, H, W)``, or what else :func:`~converters.quantise` takes
    labels : integer tensor ``(N,)``, optional
        Then the accuracy lost is in the report.
    batch : int
        Images at a time.

    Raises
    ------
    ConversionError
        If ``prepared`` was not made from a network like ``model``, or the labels do not fit.

    Examples
    --------
    >>> import converters
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> images = torch.rand(16, 1, 4, 4)
    >>> m = converters.quantise(net, images, levels=15)
    >>> report = converters.quantisation_noise(net, m, images)
    >>> [row.layer for row in report.layers]
    ['input', '_0', '_3', 'output']
    """
    if not isinstance(prepared, PreparedModel):
        raise ConversionError("prepared", type(prepared).__name__, "give what quantise or prepare_qat returned")
    given = Calibration(model, images, batch)
    example = given.first.map(lambda x: x[:8].to(given.device)).given
    reference = prepare_qat(model, example, signed_input=given.signed, check=False).eval()
    return measure_noise(reference, prepared, given, labels)


@torch.no_grad()
def measure_noise(
    reference: PreparedModel, prepared: PreparedModel, given: Calibration, labels: Tensor | None = None
) -> QuantisationReport:
    """:func:`quantisation_noise`, where ``reference`` is the float network, prepared in the same way."""
    _check_labels(labels, given)
    twin = copy.deepcopy(prepared).eval()
    _, shown = read_prepared(twin, dry=True)
    weights = quantisers(twin)
    ours = [n for n in twin.graph.nodes if n.op == "call_module" and not weights[n]]
    theirs = {n.name: n for n in reference.graph.nodes}
    names = {n: shown[n].name if n in shown else str(twin.get_submodule(str(n.target)).path) for n in ours}
    sources: dict[fx.Node, str] = {n: n.args[0].name for n in ours}
    if any(name not in theirs for name in sources.values()):
        raise ConversionError("prepared", "a network other than the float one", "give the model that it was made from")
    sums: dict[fx.Node | None, _Sums] = {n: _Sums() for n in (*ours, None)}
    agreed = right = right_before = 0.0
    classes, start = True, 0
    for batch in given:
        kept: dict[str, Tensor] = {}
        wanted = set(sources.values())
        keepers = {theirs[name]: _keeper(kept, name) for name in wanted}
        before = _main(Walk(reference, as_it_is, keepers).run(*batch.tensors))

        def gathered(n: fx.Node, q: LevelQuantiser, x: Tensor) -> Tensor:
            y = q.quantised(x)
            if n in sources:
                sums[n].add(kept[sources[n]], y, 0)  # noqa: B023  within this turn
            return y

        def alone(n: fx.Node, q: LevelQuantiser, x: Tensor) -> Tensor:
            y = q.quantised(x)
            if n not in sources:
                return y
            sums[n].add(kept[sources[n]], y, 1)  # noqa: B023
            return kept[sources[n]]  # noqa: B023

        after = _main(Walk(twin, gathered).run(*batch.tensors))
        sums[None].add(before, after, 0)
        sums[None].add(before, _main(Walk(twin, alone).run(*batch.tensors)), 1)
        size = len(batch.tensors[0])
        classes = classes and before.ndim == 2 and before.shape[1] > 1
        if classes:
            agreed += float((before.argmax(1) == after.argmax(1)).sum())
            if labels is not None:
                truth = labels[start : start + size].to(before.device)
                right_before += float((before.argmax(1) == truth).sum())
                right += float((after.argmax(1) == truth).sum())
        start += size
    rows = [LayerNoise(names[n], sums[n].snr(0), sums[n].snr(1)) for n in ours]
    own = sums[None].snr(1)
    rows.append(LayerNoise(_OUTPUT, sums[None].snr(0), None if own == math.inf else own))
    known = labels is not None and classes
    return QuantisationReport(
        given.count,
        tuple(rows),
        agreed / given.count if classes else None,
        right_before / given.count if known else None,
        right / given.count if known else None,
    )


class _Sums:
    """Squares of a layer's values, and of its errors in both networks."""

    def __init__(self) -> None:
        self.signal, self.noise = [0.0, 0.0], [0.0, 0.0]

    def add(self, wanted: Tensor, found: Tensor, which: int) -> None:
        wanted, found = wanted.double(), found.double()
        self.signal[which] += float(wanted.square().sum())
        self.noise[which] += float((found - wanted).square().sum())

    def snr(self, which: int) -> float:
        """In decibels; infinite without an error."""
        if not self.noise[which]:
            return math.inf
        return 10 * math.log10(max(self.signal[which], 1e-300) / self.noise[which])


def _keeper(kept: dict[str, Tensor], name: str) -> Any:
    def keep(values: Tensor) -> Tensor:
        kept[name] = values
        return values

    return keep


def _main(output: Any) -> Tensor:
    """The first of a network's outputs."""
    return next(x for x in tree_leaves(output) if isinstance(x, Tensor))


def _check_labels(labels: Any, given: Calibration) -> None:
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.is_floating_point() or tuple(labels.shape) != (given.count,):
        found = (
            f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        )
        raise ConversionError("labels", found, f"give a whole number for each of the {given.count:,} images")
