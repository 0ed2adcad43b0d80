"""The ONNX Runtime backend: the exported ONNX files on a CPU or an NVIDIA GPU.

Modules: `networks` (the API, input and output binding), `session` (device, execution providers,
options, loading), `external_data` (which weight files an ONNX file may read), `memory` (batch sizes
that fit into a CPU's memory).
"""
