"""The TensorRT backend, for both products: `tensorrt` and `tensorrt_rtx`.

Modules: `product` (import, choice), `machine` (does an engine fit this machine), `runtime` (logger,
errors, deserialization), `plan` (facts of an engine), `context` and `runtime_cache` (execution
contexts), `profile` (bind, run, capture, replay), `arena` (scratch memory), `networks` (the API).
"""
