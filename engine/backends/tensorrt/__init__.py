"""The TensorRT backend, for both products: tensorrt and tensorrt-rtx."""
