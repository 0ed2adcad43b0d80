"""What a network looks like, stated once. Standard library only.

Everything else (sample inputs, ONNX axes, TensorRT profiles, runtime buffers) derives from these
objects. Export and run time meet in data alone: a `Manifest` beside the compiled files.
"""

from engine.spec.checkpoint import HUB_ID, NETWORKS, Checkpoint, Network, hub_patterns
from engine.spec.errors import (
    BuildError,
    Cancelled,
    CheckpointError,
    DiffEditError,
    EngineMismatch,
    NonFiniteError,
)
from engine.spec.manifest import MANIFEST_NAME, SCHEMA, Entry, File, Manifest, file_digest
from engine.spec.nets import (
    UNET_BATCH_SIZES,
    DType,
    NetSpec,
    Precision,
    Size,
    TensorSpec,
    parse_size,
)

__all__ = [
    "HUB_ID",
    "MANIFEST_NAME",
    "NETWORKS",
    "SCHEMA",
    "UNET_BATCH_SIZES",
    "BuildError",
    "Cancelled",
    "Checkpoint",
    "CheckpointError",
    "DType",
    "DiffEditError",
    "EngineMismatch",
    "Entry",
    "File",
    "Manifest",
    "NetSpec",
    "Network",
    "NonFiniteError",
    "Precision",
    "Size",
    "TensorSpec",
    "file_digest",
    "hub_patterns",
    "parse_size",
]
