"""DiffEdit, top to bottom as in the paper: generators that yield the network rows they need.

A flow knows no backend, no batch and no file. It reads device values at two named places only: is
the mask empty (nothing to do), and is the result finite.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence

import torch
from torch import Tensor

from diffedit.algorithm import mask as masks
from diffedit.algorithm.cache import TensorCache
from diffedit.algorithm.inputs import Caches, EditInputs, EditOutputs, Ids, Path
from diffedit.algorithm.schedule import Schedule, timestep_tensors
from diffedit.request import EditRequest
from engine.errors import NonFiniteError
from engine.rows import Flow, Row

Background = Callable[[int], Tensor]


class Noise:
    """The request's own Gaussian noise: drawn on the CPU, so that every device sees the same."""

    def __init__(self, seed: int, like: Tensor) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._like = like

    def draw(self, *count: int) -> Tensor:
        """A standard normal of shape [*count, C, h, w] on the latent's device."""
        noise = torch.randn((*count, *self._like.shape), generator=self._generator)
        if self._like.device.type == "cpu":
            return noise
        return noise.pin_memory().to(self._like.device, non_blocking=True)


def edit(task: EditInputs, schedule: Schedule, caches: Caches) -> Flow[EditOutputs]:
    """The whole edit (section 3.2 and figure 2); `method` selects the paper's ablations.

    Rows at the defaults: 20 for the mask, 40 to encode, 80 to decode, one VAE encode and decode.
    """
    request = task.request
    encoded = request.method in ("diffedit", "encode-decode")
    masked = request.method in ("diffedit", "masked-sdedit")
    text = yield from embeddings(_texts(task, masked, encoded), caches.texts, task.image.device)
    path = yield from known_path(task, schedule, caches)
    x0 = path[0]
    noise = Noise(request.seed, x0)

    task.note("mask")
    if masked:
        heat, mask = yield from find_mask(task, x0, noise, text, schedule)
    else:
        heat, mask = task.region.float(), task.region
    empty = nothing_to_edit(text, x0, heat, mask)  # the first read of the device
    caches.keep(task, schedule, path[:1], text)
    if empty:
        image = None if request.composite else (yield [Row("vae_decode", (x0,))])[0]
        return EditOutputs(x0, heat, mask, image)

    depth = schedule.level(request.strength)
    background: Background
    if encoded:
        task.note("encode")
        yield from invert(path, text[task.empty], depth, schedule, task.image_key)
        start, background = path[depth], path.__getitem__
    else:
        start, background = schedule.noise(x0, noise.draw(), depth), _noised(x0, noise, schedule)

    task.note("decode")
    pair = text[task.negative], text[task.target]
    latents = yield from denoise(start, background, mask, pair, depth, request, schedule, task.show)
    (image,) = yield [Row("vae_decode", (latents,))]
    parts = [("encode", path[depth])] if encoded else []
    parts.append(("decode", latents))
    require_finite([("unet", *p) for p in parts] + [("vae_decode", "decode", image)])  # the second
    if encoded:
        caches.keep(task, schedule, path[: depth + 1])
    return EditOutputs(latents, heat, mask, image)


def mask_only(task: EditInputs, schedule: Schedule, caches: Caches) -> Flow[EditOutputs]:
    """Step 1 alone: `EditOutputs` with x_0 as its latents and no image."""
    text = yield from embeddings(_texts(task, True, False), caches.texts, task.image.device)
    path = yield from known_path(task, schedule, caches)
    x0 = path[0]
    task.note("mask")
    heat, mask = yield from find_mask(task, x0, Noise(task.request.seed, x0), text, schedule)
    nothing_to_edit(text, x0, heat, mask)
    caches.keep(task, schedule, path[:1], text)
    return EditOutputs(x0, heat, mask, None)


def encode_only(task: EditInputs, schedule: Schedule, caches: Caches) -> Flow[Tensor]:
    """Step 2 alone: the trajectory, float32 [d + 1, C, h, w], x_0 first."""
    text = yield from embeddings([task.empty], caches.texts, task.image.device)
    path = yield from known_path(task, schedule, caches)
    task.note("encode")
    depth = schedule.level(task.request.strength)
    yield from invert(path, text[task.empty], depth, schedule, task.image_key)
    parts = [("text", text[task.empty]), ("vae_encode", path[0]), ("unet", path[depth])]
    require_finite([(network, "encode", tensor) for network, tensor in parts])
    caches.keep(task, schedule, path[: depth + 1], text)
    return torch.stack(path[: depth + 1])


def embeddings(
    texts: Sequence[Ids], cache: TensorCache[Ids], device: torch.device
) -> Generator[list[Row], list[Tensor], dict[Ids, Tensor]]:
    """One embedding [77, D] per distinct text; what the cache has not is asked for in one yield."""
    cached = {ids: cache.get(ids) for ids in texts}
    found = {ids: hit[0] for ids, hit in cached.items() if hit}
    missing = [ids for ids, hit in cached.items() if not hit]
    if missing:
        rows = [
            Row("text", (torch.tensor(ids).to(device, non_blocking=True),), key=ids)
            for ids in missing
        ]
        found |= zip(missing, (yield rows), strict=True)
    return found


def known_path(task: EditInputs, schedule: Schedule, caches: Caches) -> Flow[Path]:
    """The trajectory as far as an earlier edit of the image left it, or one under way has come; at
    least [x_0]."""
    path = caches.path_of(task, schedule)
    if not path:
        (x0,) = yield [Row("vae_encode", (task.image,), key=task.image_key)]
        if not path:  # another edit may have put it there meanwhile
            path.append(x0)
    return path


def find_mask(
    task: EditInputs, x0: Tensor, noise: Noise, text: Mapping[Ids, Tensor], schedule: Schedule
) -> Flow[tuple[Tensor, Tensor]]:
    """The user's mask, or the empty one for equal texts, or the estimated one: (heatmap, mask)."""
    if task.user_mask is not None:
        return task.user_mask.float(), task.user_mask & task.region
    if task.source == task.target:
        return torch.zeros_like(x0[0]), torch.zeros_like(task.region)
    pair = text[task.source], text[task.target]
    heat = yield from estimate_mask(x0, noise, pair, task.region, task.request, schedule)
    return heat, masks.binarise(heat, task.region, task.request.mask_dilation)


def estimate_mask(
    x0: Tensor,
    noise: Noise,
    pair: tuple[Tensor, Tensor],
    region: Tensor,
    request: EditRequest,
    schedule: Schedule,
) -> Flow[Tensor]:
    """Step 1, section 3.2 "computing the editing mask": where do the two texts disagree?

    Noise x_0 to the middle of the grid with n noises, predict each under both texts (2n rows in one
    yield, no guidance: it cancels in a rule free of scale), and average the differences. `pair` is
    the embeddings of R and Q. Returns the heatmap, float32 [h, w].
    """
    m = schedule.level(request.mask_encode_strength)
    t = timestep_tensors(schedule, x0.device)[m]
    noisy = schedule.noise(x0, noise.draw(request.num_maps_per_mask), m).unbind(0)
    out = yield [Row("unet", (x, t, c)) for x in noisy for c in pair]
    predicted = [schedule.eps(p, noisy[k // 2], m) for k, p in enumerate(out)]
    difference = masks.difference_map(predicted[1::2], predicted[0::2])
    return masks.heatmap(difference, region, request.mask_thresholding_ratio)


def nothing_to_edit(text: Mapping[Ids, Tensor], x0: Tensor, heat: Tensor, mask: Tensor) -> bool:
    """Whether the mask is empty; raises NonFiniteError where the mask stage went wrong."""
    parts = {"text": torch.stack([*text.values()]), "vae_encode": x0, "unet": heat}
    flags = [tensor.isfinite().all() for tensor in parts.values()]
    *finite, some = torch.stack([*flags, mask.any()]).tolist()
    for network, is_finite in zip(parts, finite, strict=True):
        if not is_finite:
            raise NonFiniteError(network, "mask")
    return not some


def invert(
    path: list[Tensor],
    empty: Tensor,
    depth: int,
    schedule: Schedule,
    image_key: Hashable = None,
) -> Flow[None]:
    """Step 2, section 3.2 "encoding": DDIM upwards from x_0, unconditional, without guidance.

    Level i + 1 asks for x_i at timestep t_{i+1}, the same that decoding uses on its way back.
    Lengthens the trajectory until `path[i]` = x_i, float32 [C, h, w], is there up to depth; it may
    begin as [x_0] or longer. Edits of one image that are under way together lengthen the same path:
    with an `image_key` they share the row, and the first to be answered takes the step.
    """
    times = timestep_tensors(schedule, path[0].device)
    while len(path) <= depth:
        i = len(path) - 1
        key = None if image_key is None else (image_key, schedule, i)
        (out,) = yield [Row("unet", (path[i], times[i + 1], empty), key)]
        if len(path) == i + 1:
            path.append(schedule.step(path[i], schedule.eps(out, path[i], i), i, i + 1))


def denoise(
    y: Tensor,
    background: Background,
    mask: Tensor,
    pair: tuple[Tensor, Tensor],
    depth: int,
    request: EditRequest,
    schedule: Schedule,
    show: Callable[[Tensor, Tensor], None] | None = None,
) -> Flow[Tensor]:
    """Step 3, section 3.2 "decoding with mask guidance": DDIM downwards under Q.

    After every step the background is put back from the trajectory *at the same level*, so that
    outside the mask the result is x_0 exactly. `pair` is the embeddings of the negative text and
    of Q; guidance 1 needs one row a step, otherwise two.
    """
    times = timestep_tensors(schedule, y.device)
    g = request.guidance_scale
    texts = pair[1:] if g == 1 else pair
    for i in range(depth, 0, -1):
        out = yield [Row("unet", (y, times[i], c)) for c in texts]
        eps = [schedule.eps(p, y, i) for p in out]
        e = eps[0] if g == 1 else eps[0] + g * (eps[1] - eps[0])
        if show is not None:
            show(torch.where(mask, schedule.clean(y, e, i), background(0)), background(0))
        y = torch.where(mask, schedule.step(y, e, i, i - 1), background(i - 1))
    return y


def require_finite(parts: Sequence[tuple[str, str, Tensor]]) -> None:
    """Raise NonFiniteError for the first (network, stage, tensor) that is not finite; one read."""
    flags = torch.stack([tensor.isfinite().all() for _, _, tensor in parts]).tolist()
    for (network, stage, _), finite in zip(parts, flags, strict=True):
        if not finite:
            raise NonFiniteError(network, stage)


def expected_rows(request: EditRequest, schedule: Schedule, known_levels: int = 0) -> int:
    """The UNet rows a request will ask for, unless its mask is empty; `known_levels` of its
    trajectory are cached. For progress and admission."""
    depth = schedule.level(request.strength)
    found = request.method in ("diffedit", "masked-sdedit") and request.mask_image is None
    encoded = request.method in ("diffedit", "encode-decode")
    per_step = 1 if request.guidance_scale == 1 else 2
    encode = max(0, depth - known_levels) if encoded else 0
    return (2 * request.num_maps_per_mask if found else 0) + encode + depth * per_step


def _texts(task: EditInputs, masked: bool, encoded: bool) -> list[Ids]:
    """The texts a flow will need, so that all of them are embedded in one call."""
    finds = masked and task.user_mask is None
    return [task.target, task.negative] + [task.source] * finds + [task.empty] * encoded


def _noised(x0: Tensor, noise: Noise, schedule: Schedule) -> Background:
    """The background of "DiffEdit without encoding": x_0, noised afresh at each level."""
    return lambda i: schedule.noise(x0, noise.draw(), i) if i else x0
