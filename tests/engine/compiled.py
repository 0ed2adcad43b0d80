"""Small engine folders for tests: made by hand where only the manifest matters, and one-layer ONNX
files where a session does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from engine.backends.tensorrt.machine import Machine
from engine.digest import file_digest
from engine.manifest import Entry, File, Format, Manifest, ModelIdentity, Toolchain
from engine.models.stable_diffusion import StableDiffusion
from engine.netspec import NetSpec, Precision, Size

FACTOR, TOKENS, WIDTH = 8, 5, 3

H200 = Machine("tensorrt", "10.13.3.9", "NVIDIA H200", (9, 0))
RTX = Machine("tensorrt-rtx", "1.7.1.116", "NVIDIA GeForce RTX 4090", (8, 9))
BUILT = {"version": "10.13.3.9", "gpu": "NVIDIA H200", "compute_capabilities": ("9.0",)}
BUILT_RTX = {"version": "1.7.1.116", "compute_capabilities": ("8.6", "8.9")}


FAMILY = StableDiffusion(
    {
        "text_encoder": {"max_position_embeddings": TOKENS, "hidden_size": WIDTH},
        "vae": {"block_out_channels": [1] * 4, "latent_channels": 4},
        "unet": {},
    }
)
NETWORKS = tuple(network.name for network in FAMILY.networks)


def spec(net: str, size: Size = (64, 64), batch_sizes: Sequence[int] = (1, 2, 4)) -> NetSpec:
    """A spec of Stable Diffusion's form with few tokens."""
    role = next(network.role for network in FAMILY.networks if network.name == net)
    inputs, outputs = FAMILY.tensors(net, size)
    return NetSpec(
        name=net,
        role=role,
        size=None if role == "text_encoder" else size,
        inputs=inputs,
        outputs=outputs,
        batch_sizes=tuple(batch_sizes),
        attention_scores=FAMILY.attention_scores(net, size),
    )


def only(outputs: tuple[Tensor, ...]) -> Tensor:
    """The output of a network that has one."""
    (output,) = outputs
    return output


def entry(
    folder: Path,
    net: NetSpec,
    *,
    kind: Format = "onnx",
    content: bytes | None = b"compiled",
    data: str | None = None,
    **built_with: Any,
) -> Entry:
    """Write `content` into a file of `folder` (None: the file exists) and return its entry."""
    side = "x".join(map(str, net.inputs[0].shape))
    names = [f"{net.name}-{side}.{kind}"]
    if content is not None:
        (folder / names[0]).write_bytes(content)
    names += [data] if data else []
    made = tuple(
        File(name, file_digest(folder / name), (folder / name).stat().st_size) for name in names
    )
    toolchain = Toolchain(**{"product": kind, "version": "", "weights": "w", **built_with})
    return Entry(kind, net, key="k", files=made, built_with=toolchain)


def manifest(folder: Path, entries: Sequence[Entry], **digests: str) -> Path:
    """Save the manifest of a model with these digests; returns the folder."""
    model = ModelIdentity("some-model", FAMILY.name, NETWORKS, digests)
    Manifest(model=model, entries=tuple(entries)).save(folder)
    return folder


def complete(folder: Path, *sizes: Size, kind: Format = "onnx", **built_with: Any) -> list[Entry]:
    """Entries of all four networks at every size."""
    nets = [spec("text")] + [
        spec(net, size) for size in sizes for net in ("vae_encode", "unet", "vae_decode")
    ]
    return [entry(folder, net, kind=kind, **built_with) for net in nets]


def text_onnx(
    path: Path,
    *,
    precision: Precision = "fp32",
    location: str | None = None,
    nested: bool = False,
    output: str = "embedding",
) -> NetSpec:
    """Write a one-layer text encoder: a row of ids becomes ids[..., None] * weight.

    Args:
        path: the .onnx file.
        precision: of the multiplication.
        location: where the weight is said to lie; None keeps it inside.
        nested: put it into a branch of an If.
        output: the name of the output.
    """
    kinds = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    kind = kinds[precision]
    weight = helper.make_tensor("weight", kind, [WIDTH], [1.0, 2.0, 3.0])
    if location is not None:
        raw = numpy_helper.to_array(weight).tobytes()
        weight = TensorProto(name="weight", data_type=kind, dims=[WIDTH])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("length", str(len(raw)))):
            weight.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["cast"], to=kind),
        helper.make_node("Unsqueeze", ["cast", "axes"], ["column"]),
    ]
    if nested:
        empty: list[Any] = []
        branch = helper.make_graph(
            [helper.make_node("Constant", [], ["inner"], value=weight)],
            "branch",
            empty,
            [helper.make_tensor_value_info("inner", kind, [WIDTH])],
        )
        nodes.append(helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch))
        initial = [helper.make_tensor("yes", TensorProto.BOOL, [], [True])]
    else:
        nodes.append(helper.make_node("Identity", ["weight"], ["w"]))
        initial = [weight]
    nodes += [
        helper.make_node("Mul", ["column", "w"], ["product"]),
        helper.make_node("Cast", ["product"], [output], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", TOKENS])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", TOKENS, WIDTH])],
        [*initial, helper.make_tensor("axes", TensorProto.INT64, [1], [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return replace(spec("text"), precision=precision)
