"""The import rules of ARCHITECTURE.md, "Who may import whom", over every file.

The checker reads source, so an import inside a function counts like one at the top. Each rule is
also shown to fail on a source made up for it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("diffedit", "engine", "export")

# Which files may import a package at all. A trailing "." means a whole package of ours.
HEAVY = {
    "PIL": ("diffedit.imaging.", "diffedit.cli.", "diffedit.server."),
    "diffusers": (
        "engine.derived.convert",
        "engine.loader",
        "engine.backends.torch.",
        "export.networks",
    ),
    "onnx": ("export.", "engine.backends.onnxruntime."),
    "onnxruntime": ("engine.backends.onnxruntime.",),
    "onnxscript": ("export.",),
    "peft": (),
    "polygraphy": ("export.to_tensorrt",),
    "ray": ("diffedit.cli.ray_batch", "diffedit.server.router", "diffedit.server.ray_app"),
    "rich": ("diffedit.cli.", "export.__main__", "export.console"),
    "tensorrt": ("engine.backends.tensorrt.", "export.to_tensorrt"),
    "tensorrt_rtx": ("engine.backends.tensorrt.", "export.to_tensorrt"),
    "tokenizers": ("diffedit.conditioning.",),
    "transformers": (
        "engine.derived.text_parts",
        "engine.loader",
        "engine.backends.torch.",
        "export.networks",
        "diffedit.conditioning.",
    ),
    "typer": ("diffedit.cli.", "engine.model_options", "export.__main__"),
}
OPTIONAL = (
    *("onnx", "onnxruntime", "onnxscript", "peft"),
    *("polygraphy", "ray", "tensorrt", "tensorrt_rtx"),
)
OPTIONS = ("diffedit.request", "diffedit.chordedit_options")
"""The options of a request, which flows read."""
PURE = (
    "diffedit.algorithm.cache",
    "diffedit.algorithm.chordedit",
    "diffedit.algorithm.edit",
    "diffedit.algorithm.find_mask",
    "diffedit.algorithm.flowedit",
    "diffedit.algorithm.inputs",
    "diffedit.algorithm.mask",
    "diffedit.algorithm.mask_cleaning",
    "diffedit.algorithm.plan",
    "diffedit.algorithm.reference_mask",
    "diffedit.algorithm.schedule",
    "diffedit.algorithm.training_schedule",
    "diffedit.algorithm.transfer",
)
DESCRIPTIONS = (
    "engine.models",
    "engine.checkpoint",
    "engine.digest",
    "engine.errors",
    "engine.load_errors",
    "engine.manifest",
    "engine.memory",
    "engine.model_identity",
    "engine.netspec",
    "engine.origin",
    "engine.other_models",
    "engine.products",
    "engine.verification",
    "engine.safetensors_header",
    "engine.weight_files",
)
"""The standard library only."""
SHARED = (
    *DESCRIPTIONS,
    *(
        "engine.build_forecast",
        "engine.cache_dir",
        "engine.derived",
        "engine.dtypes",
        "engine.forecast",
        "engine.hub",
        "engine.interrupts",
        "engine.loader",
        "engine.model_options",
        "engine.option_groups",
        "engine.precisions",
    ),
    "engine.lora",
    "engine.weights_check",
)
"""What export may import of engine."""
EXPORT_DOOR = "diffedit.cli.build"


@dataclass(frozen=True)
class Import:
    """One imported name, with its full dotted path."""

    name: str
    line: int
    lazy: bool
    typing_only: bool

    def within(self, *modules: str) -> bool:
        return any(self.name == m or self.name.startswith(m + ".") for m in modules)


def imports_of(source: str) -> Iterator[Import]:
    """Every import of a source: statements anywhere, and import_module("...") calls."""

    def walk(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            argument = node.args[0]
            if called in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                names = [str(argument.value)]
        for name in names:
            yield Import(name, getattr(node, "lineno", 0), lazy, typing_only)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only = True
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy, typing_only)

    yield from walk(ast.parse(source), False, False)


def problem(module: str, found: Import) -> str | None:
    """What is wrong with `module` importing this, or None."""
    package = module.split(".")[0]
    if found.name.startswith("."):
        return "imports are absolute"
    if found.within("benchmarks", "demo", "integrations", "tests"):
        return f"{package} runs without a clone"
    if package == "engine" and found.within("diffedit", "export"):
        return "engine knows neither diffedit nor export"
    if package == "export":
        if found.within("diffedit"):
            return "export knows no requests"
        backends = module == "export.verify" and found.within("engine.backends")
        if found.within("engine") and not found.within(*SHARED) and not backends:
            return "export imports the descriptions only (and engine.backends in verify.py)"
    if package == "diffedit" and found.within("export"):
        if module != EXPORT_DOOR:
            return f"only {EXPORT_DOOR} imports export"
        if not found.lazy:
            return f"{EXPORT_DOOR} imports export inside a function"
    if module in PURE and found.within("engine", "diffedit"):
        allowed = found.within("engine.rows", *DESCRIPTIONS, *OPTIONS, *PURE)
        if not allowed:
            return f"{module} is arithmetic over rows"
    if any(f"{module}.".startswith(f"{name}.") for name in DESCRIPTIONS):
        root = found.name.split(".")[0]
        if root not in sys.stdlib_module_names and not found.within(*DESCRIPTIONS):
            return "descriptions import the standard library only"
    for heavy, homes in HEAVY.items():
        at_home = any(f"{module}.".startswith(h) if h[-1] == "." else module == h for h in homes)
        if found.within(heavy) and not at_home and not found.typing_only:
            return f"{heavy} is imported in {', '.join(homes)} only"
    return None


def problems(module: str, source: str) -> list[str]:
    """Every violation in one source, as "module:line name: rule"."""
    found = [
        f"{module}:{i.line} {i.name}: {why}"
        for i in imports_of(source)
        if (why := problem(module, i))
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            found.append(f"{module}:{node.lineno} sys.path: nothing edits the search path")
    return found


def sources() -> list[tuple[str, Path]]:
    files = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    return [(_module(p), p) for p in files]


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_file_keeps_the_rules() -> None:
    files = sources()
    assert {m.split(".")[0] for m, _ in files} == set(PACKAGES)
    assert [p for m, path in files for p in problems(m, path.read_text())] == []


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("engine.batcher", "import diffedit.algorithm.edit", "neither diffedit nor export"),
        ("engine.batcher", "def f():\n    from export import verify", "neither diffedit"),
        ("engine.buffers", "from importlib import import_module\nimport_module('export.x')", "nei"),
        ("export.to_onnx", "from engine.rows import Row", "descriptions only"),
        ("export.to_onnx", "from engine import backends", "descriptions only"),
        ("export.verify", "from engine.batcher import Batcher", "descriptions only"),
        ("export.build", "from diffedit import EditRequest", "no requests"),
        ("diffedit.pipeline", "def f():\n    import export", "only diffedit.cli.build"),
        ("diffedit.cli.build", "from export.build import build", "inside a function"),
        ("diffedit.algorithm.edit", "from engine.backends import Networks", "arithmetic"),
        ("diffedit.algorithm.mask", "from PIL import Image", "PIL is imported"),
        ("diffedit.algorithm.schedule", "import diffedit.conditioning.tokenizer", "arithmetic"),
        ("engine.netspec", "import torch", "standard library"),
        ("engine.netspec", "from engine.rows import Row", "standard library"),
        ("engine.backends.torch.networks", "import onnxruntime as ort", "onnxruntime is imported"),
        ("engine.batcher", "def f():\n    import tensorrt", "tensorrt is imported"),
        ("diffedit.server", "import transformers.models", "transformers is imported"),
        ("diffedit.pipeline", "from demo.picture import still_life", "without a clone"),
        ("diffedit.pipeline", "from .request import EditRequest", "absolute"),
        ("engine.rows", "import sys\nsys.path.insert(0, '.')", "search path"),
    ],
)
def test_each_rule_can_fail(module: str, source: str, rule: str) -> None:
    found = problems(module, source)
    assert len(found) == 1
    assert rule in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("export.verify", "from engine.backends.torch.networks import TorchNetworks"),
        ("diffedit.cli.build", "def f():\n    from export.build import build"),
        (
            "diffedit.algorithm.edit",
            "from engine.rows import Row\nfrom diffedit.algorithm.mask import heatmap",
        ),
        ("engine.netspec", "from engine.errors import DiffEditError\nimport json"),
        ("diffedit.request", "if TYPE_CHECKING:\n    from PIL import Image"),
        ("diffedit.cli.output", "from PIL import Image"),
    ],
)
def test_each_rule_lets_the_rest_through(module: str, source: str) -> None:
    assert problems(module, source) == []
