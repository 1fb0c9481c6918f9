"""Quantisation of a trained float network without training it, from some of its images and without labels."""

from converters.calibration.noise import LayerNoise, QuantisationReport, quantisation_noise
from converters.calibration.quantising import quantise

__all__ = ["LayerNoise", "QuantisationReport", "quantisation_noise", "quantise"]
