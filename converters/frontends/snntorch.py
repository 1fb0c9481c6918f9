"""From a user's own snnTorch model with Ca-LIF layers to a NIR graph that every backend runs."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import nir
import torch
from torch import Tensor, nn

from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF as Neuron
from calif_plugins.snntorch import reset
from calif_plugins.torch_modules import copied, places
from converters.errors import ConversionError, first_line
from converters.frontends.checking import left_alone
from converters.frontends.snntorch_check import Step, compare_trains, probe_counts
from converters.frontends.snntorch_graph import graph_of
from converters.frontends.snntorch_tracing import traced_layers
from converters.network import Network, float64
from converters.operations import Shape

__all__ = ["from_snntorch"]

_CHUNK = 64


def from_snntorch(
    model: nn.Module,
    input_shape: Sequence[int],
    T: int,
    *,
    scale: float | None = None,
    levels: int | None = None,
    signed: bool = False,
    check: bool | Tensor = True,
) -> nir.NIRGraph:
    """The NIR graph of a row of synapses and :class:`calif_plugins.snntorch.CaLIF` layers.

    Parameters
    ----------
    model : nn.Module
        An ``nn.Sequential``, or a class of your own whose forward is one such row: for one step, or in a loop over
        all of them. Such a forward is traced, and run once beside the row that was found in it. In a row are
        ``Linear``, convolutions, transposed ones and average pools of one to three axes, batch norms directly behind
        layers with weights (they act as in evaluation), whatever moves values (``Flatten``, padding, ``PixelShuffle``,
        ``Upsample`` to the nearest...), ``Dropout``, ``Identity``, and ``CaLIF`` with ``init_hidden=True``, or with
        states that a forward passes on; nested rows too, and layers at several places. The last one is a ``CaLIF``. A
        bias may have average pools and moves behind it.
    input_shape : sequence of int
        Of one image, without batch: ``(C, H, W)``, ``(n,)``...
    T : int
        Window in steps. Give as many as your own loop has: thresholds were trained for that many steps' charge.
    scale : float, optional
        Real value of one input count: pixels are encoded as ``round(pixel / scale)`` spikes. By default ``1 / T``: a
        pixel of 1 is a spike at every step, as of ``snntorch.spikegen.rate``; and the charge of the window is that of a
        model which is given the pixel itself at every step. Its spikes are not: a model that was trained on currents
        (the image itself at every step) gets spikes here, and its accuracy is to be measured again.
    levels : int, optional
        Largest input count; ``T`` by default.
    signed : bool
        Whether pixels may be negative.
    check : bool or float tensor ``(N, *input_shape)``
        Run a copy of the model for one window, in float64, and compare its spike trains with those of the graph, layer
        by layer: on eight random and extreme images, or on your own. This takes as long as that window does; the model
        is left as it was (hooks that are on it do run). False leaves it out.

    Returns
    -------
    nir.NIRGraph
        Weights in units of a power of two, per layer, so that they are whole numbers: exactly yours where yours have
        at most 23 bits below the largest one's leading bit, else rounded there. Batch norms join the weights, biases
        the leaks, and areas of pools the thresholds, exactly. ``metadata["calif_checked"]`` says what was compared.

    Warns
    -----
    ConversionWarning
        If a loop over time has another number of steps than T, or is given the image itself at every step.

    Raises
    ------
    ConversionError
        Naming the module that has no place in such a network, and the way out; or the first layer whose spikes are not
        the model's.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), Neuron(threshold=1.0, y_max=4, init_hidden=True))
    >>> g = from_snntorch(net, (2,), T=4, scale=0.25)
    >>> sorted(g.nodes)
    ['_1', '_1.s0.0_linear', 'image', 'input', 'result']
    >>> g.metadata["calif_checked"]
    'spike trains of snnTorch on 8 images (random and extreme images): 96 equal, 0 near-ties'
    """
    shape = _shape_of_one_image(input_shape)
    modules = list(_flat(model))
    stepped = model
    if any(_is_of_a_class(module) for _, module in modules):
        modules = traced_layers(model, shape, T)
        stepped = nn.Sequential(*(module for _, module in modules))
    graph = _graph(modules, shape, T, scale=scale, levels=levels, signed=signed)
    network = Network.from_graph(graph)
    wanted = probe_counts(network.spec, check)
    if wanted is None:
        return graph
    at = [path if stepped is model else str(k) for k, (path, _) in enumerate(modules)]
    neurons = {path: m.parameters_of_neuron() for path, (_, m) in zip(at, modules, strict=True) if type(m) is Neuron}
    equal = ties = 0
    with left_alone(torch.device("cpu")), torch.no_grad():
        for counts in wanted[0].split(_CHUNK):
            steps = _run(stepped, list(neurons), network, counts)
            a, b = compare_trains(network, steps, given=list(neurons.values()))
            equal, ties = equal + a, ties + b
    text = (
        f"spike trains of snnTorch on {len(wanted[0])} images ({wanted[1]}): {equal - ties:,} equal, {ties:,} near-ties"
    )
    graph.metadata["calif_checked"] = text
    return graph


def _shape_of_one_image(given: Any) -> Shape:
    if isinstance(given, int):
        raise ConversionError("input_shape", str(given), f"give a tuple, ({given},)")
    try:
        return tuple(operator.index(n) for n in given)
    except TypeError:
        raise ConversionError("input_shape", repr(given), "give a tuple of whole numbers, (C, H, W)") from None


def _graph(modules: Sequence[tuple[str, nn.Module]], shape: Shape, T: int, **options: Any) -> nir.NIRGraph:
    """:func:`graph_of`; if there is one only without the first axis, the error asks whether that is one of a batch."""
    try:
        return graph_of(modules, shape, T, **options)
    except ConversionError as error:
        if len(shape) < 2 or not _converts(modules, shape[1:], T, **options):
            raise
        todo = f"{error.todo}; or give input_shape={shape[1:]}, if {shape[0]} is a number of images"
        raise ConversionError(error.where, error.found, todo) from error


def _converts(modules: Sequence[tuple[str, nn.Module]], shape: Shape, T: int, **options: Any) -> bool:
    try:
        graph_of(modules, shape, T, **options)
    except ConversionError:
        return False
    return True


def _is_of_a_class(module: nn.Module) -> bool:
    """Whether a module with layers in it is none of PyTorch's: what it does with them stands in its forward."""
    return type(module).__module__.split(".")[:2] != ["torch", "nn"] and any(True for _ in module.children())


def _flat(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules in the order in which they act, one at two places twice."""
    inside: tuple[str, ...] = ()
    for place in places(model):
        if inside and place.path.startswith(inside):
            continue
        if type(place.module) is not nn.Sequential:
            inside = (f"{place.path}.",) if place.path else ("",)
            yield place.path, place.module


def _run(model: nn.Module, paths: list[str], network: Network, counts: Tensor) -> Iterator[Step]:
    """The model's own forward, step by step, on a copy in float64."""
    try:
        copy = copied(model).double().cpu().eval()
    except ValueError as error:
        raise ConversionError("check", str(error), "or give check=False") from None
    reset(copy)
    modules = {place.path: place.module for place in places(copy)}
    neurons: list[tuple[str, Any]] = [
        (stage.name, modules[path]) for stage, path in zip(network.stages, paths, strict=True)
    ]
    spikes: dict[str, Tensor] = {}
    drive: dict[str, Tensor] = {}

    def watch(name: str, neuron: Any) -> Any:
        p = neuron.parameters_of_neuron()

        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0]
            q = p.for_shape(tuple(x.shape[1:]))
            drive[name] = (x - float64(q.leak)) / float64(q.threshold)
            spikes[name] = output[0] if isinstance(output, tuple) else output

        return neuron.register_forward_hook(hook)

    for name, neuron in neurons:
        watch(name, neuron)
    for train in isi_encode(counts=counts.numpy(), window=network.window):
        spikes[network.encoder_name] = torch.from_numpy(train).double()
        try:
            copy(spikes[network.encoder_name])
        except Exception as error:
            reason = first_line(error)
            raise ConversionError("check", f"that the model does not run ({reason})", "or give check=False") from error
        yield Step(dict(spikes), dict(drive))
