"""From a user's own snnTorch model with Ca-LIF layers to a NIR graph that every backend runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF as Neuron
from calif_plugins.snntorch import reset
from calif_plugins.torch_modules import copied, places
from converters.errors import ConversionError, first_line
from converters.frontends.checking import left_alone
from converters.frontends.snntorch_chain import Chain
from converters.frontends.snntorch_check import Step, compare_trains, probe_counts
from converters.frontends.snntorch_tracing import traced_layers
from converters.graphs.naming import Names
from converters.network import Network, float64
from converters.nodes import CaLIF, SpikeEncoder
from converters.operations import Shape

__all__ = ["from_snntorch", "graph_of"]

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
        ``Linear``, convolutions, transposed ones and average pools of one to three axes, whatever moves values
        (``Flatten``, padding, ``PixelShuffle``, ``Upsample`` to the nearest...), ``Dropout``, ``Identity``, and
        ``CaLIF`` with ``init_hidden=True``, or with states that a forward passes on; nested rows too, and layers at
        several places. The last one is a ``CaLIF``. A bias may have average pools and moves behind it.
    input_shape : sequence of int
        Of one image, without batch: ``(C, H, W)``, ``(n,)``...
    T : int
        Window in steps.
    scale : float, optional
        Real value of one input count: pixels are encoded as ``round(pixel / scale)`` spikes. By default ``1 / T``: a
        pixel of 1 is a spike at every step, as of ``snntorch.spikegen.rate``; and the charge of the window is that of a
        model which is given the pixel itself at every step.
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
        at most 23 bits below the largest one's leading bit, else rounded there. Biases join the leaks. Areas of pools
        join the thresholds, exactly. ``metadata["calif_checked"]`` says what was compared.

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
    modules = list(_flat(model))
    stepped = model
    if any(_is_of_a_class(module) for _, module in modules):
        modules = traced_layers(model, tuple(int(n) for n in input_shape))
        stepped = nn.Sequential(*(module for _, module in modules))
    graph = graph_of(modules, input_shape, T, scale=scale, levels=levels, signed=signed)
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


def graph_of(
    modules: Sequence[tuple[str, nn.Module]],
    input_shape: Sequence[int],
    T: int,
    *,
    scale: float | None,
    levels: int | None,
    signed: bool,
) -> nir.NIRGraph:
    """The graph of modules that follow each other, each with the name that errors give it. It is not compared yet.

    Neurons keep their names, made safe and told apart (:class:`converters.graphs.naming.Names`).
    """
    levels = T if levels is None else levels
    scale = 1 / T if scale is None else scale
    shape = tuple(int(n) for n in input_shape)
    names = Names()
    own = [names.take(path) if type(module) is Neuron else "" for path, module in modules]
    source, sink, before = names.take("image"), names.take("result"), names.take("input")
    nodes: dict[str, nir.NIRNode] = {source: nir.Input(input_type={"input": np.array(shape)})}
    nodes[before] = SpikeEncoder(np.array(shape), scale, -levels if signed else 0, levels, T)
    edges = [(source, before)]
    chain, last = Chain(shape), ""
    seen: dict[int, str] = {}
    for name, (path, module) in zip(own, modules, strict=True):
        if type(module) is not Neuron:
            chain.add(path, module)
            continue
        if id(module) in seen:
            raise ConversionError(
                path, f"the same neuron as {seen[id(module)]}, so that both share one state", "give each place its own"
            )
        seen[id(module)] = path
        for k, op in enumerate(chain.ops):
            here = names.take(f"{name}.s0.{k}_{type(op).__name__.lower()}")
            nodes[here] = op.to_node(shape)
            edges.append((before, here))
            before, shape = here, op.output_shape(shape)
        edges.append((before, name))
        nodes[name] = _neuron(path or "model", module, chain, shape, T)
        before, chain, last = name, Chain(shape), path or "model"
    if not last or chain.ops:
        raise ConversionError(chain.path or "model", "no Ca-LIF layer at the end", "end the model with one")
    nodes[sink] = nir.Output(output_type={"output": np.array(shape)})
    edges.append((before, sink))
    graph = nir.NIRGraph(nodes=nodes, edges=edges, metadata={}, type_check=False)
    Network.from_graph(graph)  # says now what would be wrong with it later
    return graph


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


def _neuron(path: str, module: Neuron, chain: Chain, shape: Shape, window: int) -> CaLIF:
    if not module.init_hidden:
        raise ConversionError(path, "a CaLIF that keeps no state between steps", "set its init_hidden to True")
    if module.window not in (None, window):
        raise ConversionError(path, f"a neuron that rounds after {module.window} steps", f"the window is {window}")
    if module.dense and len(shape) > 1:
        raise ConversionError(path, "a row of thresholds behind maps", "give them shape (C, 1, 1)")
    p = module.parameters_of_neuron()
    low, high = float(p.y_min.min()), float(p.y_max.max())
    if low != float(p.y_min.max()) or high != float(p.y_max.min()):
        raise ConversionError(path, "a calcium range per channel", "NIR's CaLIF has one for the layer")
    bias = chain.bias_of_rows.numpy()
    leaks = [Fraction(float(a)) - Fraction(float(b)) for a, b in np.broadcast(np.atleast_1d(p.leak), bias)]
    bound = 2**31 - 1  # no count comes near it
    return CaLIF(
        shape=np.array(shape),
        v_threshold=_in_units(p.threshold, chain.unit),
        leak=_in_units(leaks, chain.unit),
        v_init=_in_units(p.v_init, chain.unit),
        y_min=int(max(low, -bound)),
        y_max=int(min(high, bound)),
        tie=p.tie,
        window=window,
        scale=1.0,
    )


def _in_units(values: Any, unit: Fraction) -> np.ndarray:
    """Real values in units of charge: one exact division each, and one rounding to float64."""
    return np.array([float(Fraction(v) / unit) for v in np.atleast_1d(values).tolist()])
