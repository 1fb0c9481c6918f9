"""Which of snnTorch's neurons a Ca-LIF neuron can stand in for, and what there is to do about the others."""

from __future__ import annotations

from typing import Any

import snntorch
import torch

__all__ = ["NEURONS", "obstacle"]

NEURONS = (snntorch.SpikingNeuron, snntorch.LeakyParallel)

_AGAIN = "put calif_plugins.snntorch.CaLIF there and train again"
_DYNAMICS: dict[type, str] = {
    snntorch.Synaptic: f"has a synaptic current that decays; Ca-LIF takes charge as it comes: {_AGAIN}",
    snntorch.Alpha: f"has two synaptic currents that decay; Ca-LIF takes charge as it comes: {_AGAIN}",
    snntorch.RLeaky: f"feeds its spikes back to itself; Ca-LIF networks are feed-forward: {_AGAIN}",
    snntorch.RSynaptic: f"feeds its spikes back to itself; Ca-LIF networks are feed-forward: {_AGAIN}",
    snntorch.SLSTM: f"has gates and feeds back to itself; Ca-LIF networks are feed-forward: {_AGAIN}",
    snntorch.SConv2dLSTM: f"has gates and feeds back to itself; Ca-LIF networks are feed-forward: {_AGAIN}",
    snntorch.LeakyParallel: "takes all steps at once, synapses included: put nn.Linear and "
    "calif_plugins.snntorch.CaLIF(multistep=True) there and train again",
}


def obstacle(neuron: Any) -> str:
    """Why a neuron of snnTorch's cannot be replaced by a Ca-LIF neuron, and the way out; empty where it can.

    >>> obstacle(snntorch.Leaky(beta=0.9))
    ''
    >>> obstacle(snntorch.Synaptic(alpha=0.9, beta=0.9))[:42]
    'has a synaptic current that decays; Ca-LIF'
    """
    kind = type(neuron)
    if kind not in (snntorch.Leaky, snntorch.Lapicque):
        base = "Leaky" if isinstance(neuron, snntorch.Leaky) else "neuron"
        return _DYNAMICS.get(kind, f"is a {base} of its own kind, whose dynamics are not known here: {_AGAIN}")
    if neuron.inhibition:
        return "lets only one neuron fire (inhibition), which Ca-LIF has no counterpart of; train without it, then swap"
    if neuron.state_quant:
        return "quantises its membrane; remove state_quant first"
    if bool((torch.as_tensor(neuron.graded_spikes_factor) != 1).any()):
        return "scales its spikes; fold graded_spikes_factor into the next layer's weights first"
    if neuron.reset_mechanism == "none":
        return "is never reset, which is no Ca-LIF neuron; read its membrane, or set reset_mechanism to 'subtract'"
    threshold = neuron.threshold
    if not bool((threshold > 0).all()):
        return "has a threshold that is not positive"
    if threshold.numel() > 1 and max(threshold.shape[1:], default=1) > 1:
        return f"has one threshold per neuron (shape {tuple(threshold.shape)}); Ca-LIF has one per channel"
    return ""
