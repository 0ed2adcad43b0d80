"""The torch backend on a CUDA device: equal to the reference on the CPU, without synchronizing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffedit import DiffEditPipeline, EditResult
from diffedit.algorithm import edit as flows
from diffedit.algorithm.cache import Trajectory
from diffedit.algorithm.find_mask import Noise
from diffedit.algorithm.inputs import EditInputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule, timestep_tensors
from engine.backends.torch.networks import TorchNetworks
from engine.batcher import Batcher
from engine.checkpoint import Checkpoint
from engine.netspec import Precision
from tests.algorithm.flow_tools import drain, encode_flow, new_caches, new_inputs, run

pytestmark = pytest.mark.gpu
TEXTS = ("a blue ball on a table", "a red ball on a table")
OPTIONS: dict[str, Any] = {"num_inference_steps": 10, "num_maps_per_mask": 4, "seed": 3}


@pytest.fixture(scope="module")
def on_cpu(tiny: Path, photo_of_module: Any) -> EditResult:
    with DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu") as pipe:
        return pipe(photo_of_module, *TEXTS, **OPTIONS)


@pytest.fixture(scope="module")
def photo_of_module() -> Any:
    from demo.picture import still_life

    return still_life(96, 72)


def relative(a: Any, b: Any) -> float:
    x, y = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return float((x - y).norm() / y.norm())


def test_float32_equals_the_cpu(tiny: Path, photo_of_module: Any, on_cpu: EditResult) -> None:
    """PyTorch would compute convolutions in TF32."""
    with DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cuda") as pipe:
        result = pipe(photo_of_module, *TEXTS, **OPTIONS)
    assert (result.latent_mask == on_cpu.latent_mask).all()
    assert relative(result.latents, on_cpu.latents) < 1e-3


@pytest.mark.parametrize(("dtype", "near"), [("fp16", 0.02), ("bf16", 0.1)])
def test_narrow_types_stay_near(
    tiny: Path, photo_of_module: Any, dtype: Precision, near: float
) -> None:
    """The trajectory has no threshold in it: its error is the networks' own."""
    with DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu") as pipe:
        exact = pipe.invert(photo_of_module, 10, 0.8)
    with DiffEditPipeline.from_pretrained(tiny, dtype=dtype, device="cuda") as pipe:
        narrow = pipe.invert(photo_of_module, 10, 0.8)
    assert relative(narrow[-1], exact[-1]) < near


def networks(tiny: Path, graphs: bool) -> TorchNetworks:
    checkpoint = Checkpoint.open(tiny)
    return TorchNetworks.open(checkpoint, device="cuda", dtype="fp16", cuda_graphs=graphs)


def on_gpu(inputs: EditInputs) -> EditInputs:
    from dataclasses import replace

    return replace(inputs, image=inputs.image.cuda(), region=inputs.region.cuda())


def test_graphs_change_nothing(tiny: Path) -> None:
    """Pinned profiles, so that both run the very same kernels on the very same batches."""
    schedule = Schedule.from_config(Checkpoint.open(tiny).scheduler_config, 10)
    found = []
    for graphs in (True, False):
        opened = TorchNetworks.open(
            Checkpoint.open(tiny),
            device="cuda",
            dtype="fp16",
            cuda_graphs=graphs,
            pin_batch_size=4,
        )
        flow = encode_flow(on_gpu(new_inputs(16, 4)), schedule, new_caches())
        found.append(run(flow, opened)[0])
    assert relative(found[0].cpu(), found[1].cpu()) < 1e-3


@pytest.mark.parametrize("graphs", [True, False])
def test_no_stage_waits_for_the_device(tiny: Path, graphs: bool) -> None:
    """After a warm-up, encoding reads nothing: any synchronising call raises here."""
    schedule = Schedule.from_config(Checkpoint.open(tiny).scheduler_config, 10)
    batcher = Batcher(networks(tiny, graphs))
    x0 = torch.randn(4, 16, 16, device="cuda")
    text = torch.randn(77, 32, device="cuda")
    timestep_tensors(schedule, x0.device)
    for attempt in range(2):
        trajectory = Trajectory([x0])
        inputs = on_gpu(new_inputs(16, 4))
        plan = EditPlan.for_inversion(inputs.request, schedule)
        job = batcher.submit(flows.invert(inputs, trajectory, (text,), plan))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")
        try:
            drain(batcher)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        job.future.result()
        assert len(trajectory) == 9 and trajectory[-1].isfinite().all()


def test_the_noise_is_the_cpus(tiny: Path) -> None:
    like = torch.zeros(4, 8, 8)
    assert Noise(5, like.cuda()).draw(3).cpu().equal(Noise(5, like).draw(3))
