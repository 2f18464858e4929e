"""A model run on this machine with ONNX Runtime: what the backends `onnx` and `clip` have in common."""
