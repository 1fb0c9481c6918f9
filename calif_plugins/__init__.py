"""The Ca-LIF neuron (calcium-gated bipolar leaky integrate-and-fire; Gao et al. 2023) and its plugins.

One file per simulator; each is imported only when asked for::

    from calif_plugins import CaLIFParameters
    from calif_plugins.reference import run        # NumPy: plain, slow, the oracle
    from calif_plugins.snntorch import CaLIF       # a layer for snnTorch models
    from calif_plugins.brian2 import calif_group   # equations for Brian2 scripts

Reference: Gao H, He J, Wang H, et al. (2023) High-accuracy deep ANN-to-SNN conversion using
quantization-aware training framework and calcium-gated bipolar leaky integrate and fire neuron.
Front. Neurosci. 17:1141701. doi:10.3389/fnins.2023.1141701
"""

from calif_plugins.parameters import CaLIFParameters

__all__ = ["CaLIFParameters", "__version__"]
__version__ = "0.2.0"
