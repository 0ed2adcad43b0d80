"""LoRA files: which layers they change, and how they are fused into a model's weights.

`file` checks a file against a checkpoint before any weight is loaded; `fuse` adds the changes to a
loaded part. Both the export and a backend can use them. This package knows no pipeline and no
engine folder.
"""
