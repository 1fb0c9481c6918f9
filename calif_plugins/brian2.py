"""The Ca-LIF neuron as Brian2 equations, custom events and reset statements. Discrete code, never an ODE.

One Brian2 time step is one step of the rule, whatever ``defaultclock.dt`` is, and whether it is set before or after a
group is made: time is counted in steps. With ``layer=`` every group gets slots of its own in the
network's schedule, so that all layers of a feed-forward network act within one ``dt``, in graph order::

    net = Network(a, b, connect(a, b, i, j, w, layer="a"))
    net.schedule = schedule("a", "b")

Source: Gao et al. 2023, equation 2 and section 3.2; the ceiling and the rounding phase as in
:mod:`calif_plugins.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from calif_plugins.needing import needing
from calif_plugins.parameters import PHASES, CaLIFParameters, Phase

with needing("brian2"):
    import brian2

__all__ = ["CountingSynapses", "calif_group", "connect", "isi_group", "replay_group", "schedule"]

_NEVER = 2**30

EQUATIONS = """
V : 1                                                # membrane potential
y : integer                                          # signed output count: calcium
fired : integer                                      # spikes of either sign
last : integer                                       # step of the last spike, from 1
Vth : 1 (constant)
leak : 1 (constant)
y_min : 1 (constant)
y_max : 1 (constant)
window : integer (shared, constant)
settle_from : integer (shared, constant)
leaking = t_in_timesteps < window : boolean (shared)
half = t_in_timesteps >= settle_from : boolean (shared)
"""
# in the rounding phase thresholds are half, strictly; what exactly half does, the tie rule says
_EVENTS = {
    "even": {
        "pos": "y < y_max and ((not half and V >= Vth) or (half and (2*V > Vth or (2*V == Vth and y % 2 == 1))))",
        "neg": "y > y_min and ((not half and V <= -Vth) or (half and (2*V < -Vth or (2*V == -Vth and y % 2 == 1))))",
    },
    "up": {
        "pos": "y < y_max and ((not half and V >= Vth) or (half and 2*V >= Vth))",
        "neg": "y > y_min and ((not half and V <= -Vth) or (half and 2*V < -Vth))",
    },
}
_RESETS = {
    "pos": "V -= Vth\ny += 1\nfired += 1\nlast = t_in_timesteps + 1",
    "neg": "V += Vth\ny -= 1\nfired += 1\nlast = t_in_timesteps + 1",
}
_INDEX = 1e-12  # seconds: finer than any clock, so that a TimedArray looks its rows up as they stand
_SLOTS = ("leak", "thresholds", "resets", "synapses")
_DEFAULT_SLOTS = dict(zip(_SLOTS, ("groups", "thresholds", "resets", "synapses"), strict=True))


def schedule(*layers: str) -> list[str]:
    """A schedule for ``Network.schedule``: the slots of each layer, in this order, within one time step.

    Brian2's standard slots stay, for whatever else is in the network.

    Raises
    ------
    ValueError
        For a layer that is named twice, or so that Brian2 takes its slots for its own.

    >>> schedule("a", "b")
    ['start', 'groups', 'a_leak', 'a_thresholds', 'a_resets', 'a_synapses',
     'b_leak', 'b_thresholds', 'b_resets', 'b_synapses', 'thresholds', 'synapses', 'resets', 'end']
    """
    twice = [layer for k, layer in enumerate(layers) if layer in layers[:k]]
    if twice:
        raise ValueError(f"schedule: expected different layers, found {twice[0]!r} twice; name each one once")
    own = [_slot(layer, slot) for layer in layers for slot in _SLOTS]
    return ["start", "groups", *own, "thresholds", "synapses", "resets", "end"]


def _by_step(rows: np.ndarray) -> dict[str, Any]:
    """A namespace in which ``rows(t_in_timesteps * row, i)`` is the row of this step, and 0 after the last one.

    A TimedArray is indexed by time. Over the time of its own rows it would depend on the clock of the moment it was
    made, and stretch or squeeze what it holds if ``defaultclock.dt`` is set afterwards; over steps it does not.
    """
    silence = np.zeros((1, rows.shape[1]))  # a TimedArray holds its last value
    held = brian2.TimedArray(np.concatenate([rows, silence]), dt=_INDEX * brian2.second)
    return {"rows": held, "row": _INDEX * brian2.second}


def _slot(layer: str | None, slot: str) -> str:
    if layer is None:
        return _DEFAULT_SLOTS[slot]
    if f"{layer}_".startswith(("before_", "after_")):
        raise ValueError(f"layer: expected a name that is no slot of Brian2's, found {layer!r}; call it another way")
    return f"{layer}_{slot}"  # a slot's name ends with the last _, so two layers never share one


def calif_group(
    n: int,
    parameters: CaLIFParameters,
    *,
    shape: Sequence[int] | None = None,
    window: int | None = None,
    phase: Phase = "settle",
    settle_from: int | None = None,
    charge: np.ndarray | None = None,
    layer: str | None = None,
    name: str = "calif*",
) -> brian2.NeuronGroup:
    """Ca-LIF neurons with the events ``pos`` and ``neg``.

    Parameters
    ----------
    n : int
        Number of neurons.
    parameters : CaLIFParameters
    shape : sequence of int, optional
        The layer's shape, channels first, to spread per-channel parameters over; ``n`` may be a multiple of its
        size (several images side by side). By default ``(n,)``.
    window : int, optional
        ``T``: the step at which the leak ends and the rounding phase begins. Without it neither happens.
    phase : {"settle", "paper", "none"}
        ``settle``: half thresholds from ``settle_from`` on (``T`` by default), for as many steps as you run.
        ``paper`` is the same here: run one step after the window. ``none``: whole thresholds always.
    settle_from : int, optional
    charge : array of shape ``(steps, n)``, optional
        Injected at each step, beside what synapses bring.
    layer : str, optional
        Put all of the group's operations into this layer's slots of :func:`schedule`. Without it they stand in
        Brian2's standard slots, where a spike arrives at the next step.
    name : str

    Returns
    -------
    brian2.NeuronGroup
        Variables ``V``, ``y``, ``fired``, ``last`` (step of the last spike), ``Vth``, ``leak``, ``y_min``, ``y_max``.
        Works with ``EventMonitor(group, "pos")``, ``StateMonitor`` and ``Synapses(on_event=...)``.

    Raises
    ------
    ValueError
        For an unknown phase, or sizes that do not agree.

    Examples
    --------
    >>> import brian2
    >>> brian2.prefs.codegen.target = "numpy"
    >>> group = calif_group(1, CaLIFParameters(threshold=2.0), window=3, charge=np.array([[3.0], [3.0], [-5.0]]))
    >>> up, down = brian2.EventMonitor(group, "pos"), brian2.EventMonitor(group, "neg")
    >>> net = brian2.Network(group, up, down)
    >>> net.run(6 * brian2.defaultclock.dt)
    >>> [round(float(m.t[k] / brian2.defaultclock.dt)) for m in (up, down) for k in range(len(m.t))]
    [0, 1, 2, 3]
    >>> int(group.y[0]), float(group.V[0])
    (0, 1.0)
    """
    if phase not in PHASES:
        raise ValueError(f"phase: expected one of {', '.join(PHASES)}, found {phase!r}")
    own = (n,) if shape is None else tuple(int(k) for k in shape)
    size = int(np.prod(own))
    if n < 1 or n % size:
        raise ValueError(f"n: expected a multiple of the layer's {size} neurons, found {n}")
    start = window if settle_from is None else settle_from
    group = brian2.NeuronGroup(
        n, EQUATIONS, events=_EVENTS[parameters.tie], name=name, namespace={}, method="euler"
    )  # there is nothing to integrate
    p = parameters.for_shape(own)
    for variable, value in (
        ("V", p.v_init),
        ("Vth", p.threshold),
        ("leak", p.leak),
        ("y_min", p.y_min),
        ("y_max", p.y_max),
    ):
        spread = np.broadcast_to(value, own).reshape(-1)
        setattr(group, variable, np.tile(spread, n // size))
    group.window = _NEVER if window is None else int(window)
    group.settle_from = _NEVER if start is None or phase == "none" else int(start)
    for event, reset in _RESETS.items():
        group.set_event_schedule(event, when=_slot(layer, "thresholds"))
        group.run_on_event(event, reset, when=_slot(layer, "resets"))
    code = "V -= leak * int(leaking)"
    if charge is not None:
        given = np.asarray(charge, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != n:
            raise ValueError(f"charge: expected an array of shape (steps, {n}), found {given.shape}")
        group.namespace.update(_by_step(given))
        code = f"V += rows(t_in_timesteps * row, i)\n{code}"
    group.run_regularly(code, when=_slot(layer, "leak"))
    return group


def connect(
    source: brian2.NeuronGroup,
    target: brian2.NeuronGroup,
    i: Any,
    j: Any,
    weights: Any,
    *,
    layer: str | None = None,
    name: str = "calif_synapses*",
) -> brian2.Synapses:
    """Synapses ``i -> j`` without delay: a spike of the source adds ``w`` to ``V``, a negative one ``-w``.

    Parameters
    ----------
    source : group with the events ``pos`` and ``neg``
    target : group with ``V``
    i, j : int arrays ``(synapses,)``
    weights : float or array ``(synapses,)``
    layer : str, optional
        The source's layer, in whose slots the spikes travel.
    """
    synapses = brian2.Synapses(
        source,
        target,
        "w : 1 (constant)",
        on_pre={"pos": "V_post += w", "neg": "V_post -= w"},
        on_event={"pos": "pos", "neg": "neg"},
        name=name,
        namespace={},
    )
    synapses.connect(i=np.asarray(i, dtype=np.int32), j=np.asarray(j, dtype=np.int32))
    synapses.w = weights
    synapses.pos.when = synapses.neg.when = _slot(layer, "synapses")
    return synapses


class CountingSynapses(brian2.NetworkOperation):
    """Synapses with a memory: they count what each source has sent, and bring the change of a function of the counts.

    ``V_target += function(n(t)) - function(n(t - 1))`` at every step, with ``function(n(-1)) = 0``. It runs in Python,
    for functions that have no equations, and therefore not in a standalone build.

    Parameters
    ----------
    sources : sequence of groups with the events ``pos`` and ``neg``, or None for one that never fires
    target : group with ``V``
    function : callable
        Int64 arrays, one for each source, to a float64 array of the target's size.
    sizes : sequence of int
        Number of neurons of each source.
    layer : str, optional
        The last source's layer, in whose slot of synapses this acts.
    """

    def __init__(
        self,
        sources: Sequence[brian2.NeuronGroup | None],
        target: brian2.NeuronGroup,
        function: Callable[..., np.ndarray],
        sizes: Sequence[int],
        *,
        layer: str | None = None,
        name: str = "counting_synapses*",
    ) -> None:
        self.origins, self.target, self.map = list(sources), target, function
        self.counts = [np.zeros(size, dtype=np.int64) for size in sizes]
        self.before: np.ndarray | None = None
        super().__init__(self._step, clock=target.clock, when=_slot(layer, "synapses"), name=name)

    def reset(self) -> None:
        """Forget all counts, for another run from the start."""
        for count in self.counts:
            count[:] = 0
        self.before = None

    def _step(self) -> None:
        for group, count in zip(self.origins, self.counts, strict=True):
            if group is not None:
                for event, sign in (("pos", 1), ("neg", -1)):
                    space = group.variables[f"_{event}space"].get_value()
                    count[space[: space[-1]]] += sign
        now = self.map(*self.counts)
        self.target.V_[:] = self.target.V_[:] + (now if self.before is None else now - self.before)
        self.before = now


def isi_group(counts: Any, window: int, *, layer: str | None = None, name: str = "isi*") -> brian2.NeuronGroup:
    """Neurons that emit ``counts`` signed spikes over ``window`` steps in ISI coding (section 4.1).

    ``counts`` is an int array ``(n,)`` with ``|counts| <= window``; the group's variable ``n`` can be set anew
    between runs.

    >>> import brian2
    >>> brian2.prefs.codegen.target = "numpy"
    >>> group = isi_group([3, -1], 4)
    >>> up = brian2.EventMonitor(group, "pos")
    >>> brian2.Network(group, up).run(6 * brian2.defaultclock.dt)
    >>> [round(float(t / brian2.defaultclock.dt)) for t in up.t]
    [0, 1, 3]
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or np.abs(counts).max(initial=0) > window:
        raise ValueError(f"counts: expected a list of integers of at most {window} in size, found {counts!r}")
    # spikes up to step k: ceil((k + 1) n / T) - 1, in integers (calif_plugins.encoding)
    before = "((t_in_timesteps + 1) * size + window - 1) // window"
    after = "((t_in_timesteps + 2) * size + window - 1) // window"
    now = f"t_in_timesteps < window and {after} > {before}"
    group = brian2.NeuronGroup(
        len(counts),
        "n : integer\nsize = abs(n) : integer\nwindow : integer (shared, constant)",
        events={"pos": f"n > 0 and {now}", "neg": f"n < 0 and {now}"},
        name=name,
        namespace={},
    )
    group.n, group.window = counts, int(window)
    for event in ("pos", "neg"):
        group.set_event_schedule(event, when=_slot(layer, "thresholds"))
    return group


def replay_group(trains: Any, *, layer: str | None = None, name: str = "replay*") -> brian2.NeuronGroup:
    """Neurons that repeat recorded signed spikes: ``trains`` of shape ``(steps, n)`` in {-1, 0, 1}."""
    trains = np.asarray(trains, dtype=np.float64)
    if trains.ndim != 2 or np.abs(trains).max(initial=0) > 1:
        raise ValueError(f"trains: expected (steps, n) with values -1, 0 and 1, found shape {trains.shape}")
    now = "rows(t_in_timesteps * row, i)"
    group = brian2.NeuronGroup(
        trains.shape[1],
        "unused : 1",
        events={"pos": f"{now} > 0", "neg": f"{now} < 0"},
        name=name,
        namespace=_by_step(trains),
    )
    for event in ("pos", "neg"):
        group.set_event_schedule(event, when=_slot(layer, "thresholds"))
    return group
