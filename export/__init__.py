"""Compile a checkpoint into ONNX files and TensorRT engines.

The export knows networks, not requests, prompts or photographs. It describes its output in a
`Manifest` (`engine.manifest`), which is all that the runtime reads of it.
"""
