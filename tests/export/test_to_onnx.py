"""Every exported network has torch's outputs, names, shapes, types and files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from engine.checkpoint import Checkpoint
from engine.errors import BuildError
from engine.models.stable_diffusion import NETWORKS
from engine.netspec import Precision
from export import to_onnx
from export.networks import load, sample, wrap
from tests.micro import make_micro

SIZE = (16, 16)
NAMES = sorted(network.name for network in NETWORKS)


def answer(path: Path, names: list[str], inputs: list[torch.Tensor]) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(np.asarray(session.run(None, feed)[0]))


def export(model: Path, name: str, precision: Precision, folder: Path) -> Path:
    checkpoint = Checkpoint.open(model)
    spec = checkpoint.spec(name, SIZE, precision=precision)
    network = wrap(
        checkpoint.network(name), load(checkpoint, checkpoint.network(name).part), precision
    )
    path = folder / f"{name}.onnx"
    assert to_onnx.export(network, spec, path, sample(spec, 2, vocabulary=99)) == (path,)
    return path


def relative(model: Path, name: str, path: Path, rows: int) -> float:
    """The error of an ONNX file against the checkpoint's own module in fp32."""
    checkpoint = Checkpoint.open(model)
    spec = checkpoint.spec(name, SIZE)
    inputs = list(sample(spec, rows, vocabulary=99, seed=7))
    with torch.inference_mode():
        module = load(checkpoint, checkpoint.network(name).part)
        want = checkpoint.network(name).call(module, torch.float32, *inputs)
    got = answer(path, [t.name for t in spec.inputs], inputs)
    assert got.dtype == torch.float32
    assert got.shape == want.shape
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("name", NAMES)
def test_epsilon_round_trip_at_any_batch(micro: Path, micro_build: Path, name: str) -> None:
    (path,) = micro_build.glob(f"{name}-*fp32.onnx")
    for rows in (1, 3, 5):
        assert relative(micro, name, path, rows) < 1e-5


@pytest.fixture(scope="session")
def v_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v-prediction, and linear projections and fp32 attention, as Stable Diffusion 2.1 has them."""
    unet = {"use_linear_projection": True, "upcast_attention": True}
    scheduler = {"prediction_type": "v_prediction"}
    return make_micro(tmp_path_factory.mktemp("v") / "model", unet=unet, scheduler=scheduler)


@pytest.fixture(scope="session")
def v_unet(v_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(v_model, "unet", "fp16", tmp_path_factory.mktemp("v-onnx"))


@pytest.mark.slow
def test_v_prediction_round_trip_in_fp16(v_model: Path, v_unet: Path) -> None:
    for rows in (1, 3):
        assert 1e-5 < relative(v_model, "unet", v_unet, rows) < 5e-3


def types(path: Path) -> tuple[onnx.ModelProto, dict[str, int]]:
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    return model, {v.name: v.type.tensor_type.elem_type for v in values}


def test_the_timestep_stays_exact_in_fp16(v_unet: Path) -> None:
    """No value between the timestep and the sines is rounded to half precision."""
    model, kinds = types(v_unet)
    made = {o: node for node in model.graph.node for o in node.output}
    waves = [node for node in model.graph.node if node.op_type in ("Sin", "Cos")]
    assert len(waves) == 2
    way = {name for node in waves for name in node.input}
    seen: set[str] = set()
    while way:
        name = way.pop()
        seen.add(name)
        way |= set(made[name].input) - seen if name in made else set()
    assert "timestep" in seen
    assert onnx.TensorProto.FLOAT16 not in {kinds.get(name) for name in seen}


@pytest.mark.slow
def test_attention_is_upcast_where_the_checkpoint_asks_for_it(v_unet: Path) -> None:
    model, kinds = types(v_unet)
    scores = [node.input[0] for node in model.graph.node if node.op_type == "Softmax"]
    assert len(scores) == 2
    made = {o: node for node in model.graph.node for o in node.output}
    for name in scores:
        while made[name].op_type != "MatMul":  # the scale, a mask of zeros, casts
            name = next(i for i in made[name].input if i in made)
        assert kinds[name] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("name", NAMES)
def test_border_is_the_spec(micro: Path, micro_build: Path, name: str) -> None:
    (path,) = micro_build.glob(f"{name}-*fp32.onnx")
    spec = Checkpoint.open(micro).spec(name, SIZE)
    graph = onnx.load(path).graph
    assert [v.name for v in graph.input] == [t.name for t in spec.inputs]
    assert [v.name for v in graph.output] == [t.name for t in spec.outputs]
    kinds = {"fp32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    for value, tensor in zip(
        [*graph.input, *graph.output], (*spec.inputs, *spec.outputs), strict=True
    ):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert tuple(d.dim_value for d in rest) == tensor.shape
        assert value.type.tensor_type.elem_type == kinds[tensor.dtype]


def test_files_hold_no_path_of_this_machine(micro_build: Path) -> None:
    for path in micro_build.glob("*.onnx"):
        data = path.read_bytes()
        assert b"site-packages" not in data
        assert b"stack_trace" not in data


def test_large_weights_lie_beside_and_move_along(micro: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(micro)
    spec = checkpoint.spec("text", (16, 16))
    inputs = sample(spec, 2, vocabulary=99)
    network = wrap(checkpoint.network("text"), load(checkpoint, "text_encoder"), "fp32")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    files = to_onnx.export(network, spec, temporary / "text.onnx", inputs, embed_limit=1000)
    assert [f.name for f in files] == ["text.onnx", "text.onnx.data"]
    outside = [
        {p.key: p.value for p in t.external_data}
        for t in onnx.load(files[0], load_external_data=False).graph.initializer
        if t.external_data
    ]
    assert outside
    assert {entry["location"] for entry in outside} == {"text.onnx.data"}
    moved = Path(shutil.move(temporary, tmp_path / "final"))
    with torch.inference_mode():
        (want,) = network(*inputs)
    got = answer(moved / "text.onnx", ["input_ids"], list(inputs))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_sample_of_a_row_does_not_depend_on_its_company(micro: Path) -> None:
    spec = Checkpoint.open(micro).spec("unet", (16, 16))
    few, many = sample(spec, 2, vocabulary=9), sample(spec, 5, vocabulary=9)
    for a, b in zip(few, many, strict=True):
        assert torch.equal(a, b[:2])
    assert not torch.equal(many[0][0], many[0][1])


def test_a_file_that_onnx_does_not_define_is_an_error(tmp_path: Path) -> None:
    """The exporter wrote this for the U-Net of SDXL in fp16; no runtime loads it."""
    half, full = (
        onnx.helper.make_tensor_value_info(name, kind, [1, 4])
        for name, kind in (("a", onnx.TensorProto.FLOAT16), ("b", onnx.TensorProto.FLOAT))
    )
    joined = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1, 8])
    path = tmp_path / "net.onnx"
    for inputs, names, valid in (([half, full], ["a", "b"], False), ([full], ["b", "b"], True)):
        node = onnx.helper.make_node("Concat", names, ["c"], axis=1)
        graph = onnx.helper.make_graph([node], "net", inputs, [joined])
        opset = onnx.helper.make_opsetid("", 18)
        onnx.save(onnx.helper.make_model(graph, opset_imports=[opset]), path)
        if valid:
            to_onnx.check("net", path)
            continue
        with pytest.raises(BuildError, match=r"net cannot be exported to ONNX.*Concat") as caught:
            to_onnx.check("net", path)
        assert "\n" not in str(caught.value)
