"""The ONNX Runtime backend, on CPUs and through CUDA."""
