"""The compiler: a Stable Diffusion checkpoint in, ONNX files and TensorRT engines out.

It knows networks; it knows nothing of requests, prompts or photographs. What it makes is described
by a `Manifest` (see `engine.spec`), and that file is all the runtime reads of it.
"""
