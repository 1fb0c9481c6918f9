"""Quantisation of a trained float network without training it, from some of its images and without labels."""

from converters.calibration.quantising import quantise

__all__ = ["quantise"]
