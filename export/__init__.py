"""Compile a checkpoint to ONNX files and TensorRT engines.

The output is described by a `Manifest` (`engine.manifest`), which is the only interface to the
runtime.
"""
