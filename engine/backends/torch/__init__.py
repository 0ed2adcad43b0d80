"""The PyTorch backend: eager or compiled, with kernels for CPUs in bf16."""
