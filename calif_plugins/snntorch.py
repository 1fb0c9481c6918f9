"""Everything that a user of snnTorch needs.

::

    from calif_plugins.snntorch import CaLIF, reset, settle, swap_neurons

    net = nn.Sequential(nn.Linear(64, 32), CaLIF(y_max=16, init_hidden=True))   # a layer like any other
    report = swap_neurons(my_model)                                             # into a model that exists
"""

from calif_plugins.snntorch_neuron import CaLIF, calif_step, reset, settle
from calif_plugins.snntorch_swap import SwapReport, swap_neurons

__all__ = ["CaLIF", "SwapReport", "calif_step", "reset", "settle", "swap_neurons"]
