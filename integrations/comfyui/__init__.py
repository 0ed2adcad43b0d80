"""Custom nodes for ComfyUI that edit and mask photographs with a diffedit-trt server.

Copy or link this folder into ComfyUI's `custom_nodes`. It needs nothing that ComfyUI does not have:
the model runs in the server.
"""

from .nodes import DiffEditEdit, DiffEditMask

NODE_CLASS_MAPPINGS = {"DiffEditEdit": DiffEditEdit, "DiffEditMask": DiffEditMask}
NODE_DISPLAY_NAME_MAPPINGS = {"DiffEditEdit": "DiffEdit edit", "DiffEditMask": "DiffEdit mask"}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
