"""LoRA files: which layers they change, and how they are fused into a model's weights.

`file` checks a file against a checkpoint before any weight is loaded; `fuse` adds the changes to a
loaded part. The export and the PyTorch backend use both.
"""
