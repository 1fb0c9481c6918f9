"""Reads quantised ONNX models: QuantizeLinear and DequantizeLinear pairs, QCDQ, QONNX and the integer operators.

:mod:`~converters.frontends.onnx.model` has the public function. A model goes through ``loading`` (a file of a stranger
becomes a checked :class:`~converters.frontends.onnx.graph.Graph`), ``expanding`` (integer operators become what the
standard says they mean), ``reader`` (walks the nodes; constants are folded, tables of handlers say verbs), and
``oracle`` (the same model run by onnxruntime, for the comparison).
"""
