"""Each family equals diffusers' pipeline of the same checkpoint: conditioning, VAE, every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler
from torch import Tensor

from diffedit.preprocessor import schedule_for
from engine.rows import Row
from tests.algorithm.flow_tools import step
from tests.families.conftest import LCM, FamilyUnderTest

SIZE = (64, 96)
STEPS = 6
RENOISING_SEED = 11
"""Of the noise that LCM's scheduler adds after each step."""
TEXTS = ["a red ball on the grass", "", "a photo of one green pear, painted " * 12]


def encode_prompt(theirs: Any, text: str) -> tuple[Tensor, ...]:
    """The conditioning of one text by the pipeline's own `encode_prompt`."""
    name = type(theirs).__name__
    options: dict[str, Any] = {"device": torch.device("cpu"), "num_images_per_prompt": 1}
    if name == "FluxPipeline":
        length = 512 if theirs.transformer.config.guidance_embeds else 256
        embedding, pooled, _ = theirs.encode_prompt(
            text, None, max_sequence_length=length, **options
        )
        return embedding[0], pooled[0]
    options["do_classifier_free_guidance"] = text == ""
    which = 1 if text == "" else 0
    if name in ("StableDiffusionPipeline", "LatentConsistencyModelPipeline"):
        return (theirs.encode_prompt(text or "a", **options)[which][0],)
    if name == "StableDiffusionXLPipeline":
        found = theirs.encode_prompt(text or "a", None, **options)
    else:
        found = theirs.encode_prompt(text or "a", None, None, **options)
    return found[which][0], found[which + 2][0]


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "empty", "too long"])
@torch.inference_mode()
def test_conditioning_equals_theirs(family: FamilyUnderTest, text: str) -> None:
    ours, theirs = family.condition(text), encode_prompt(family.theirs, text)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


@torch.inference_mode()
def test_the_vae_round_trip_equals_theirs(family: FamilyUnderTest) -> None:
    vae, names = family.theirs.vae, family.checkpoint.names
    image = torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(1)) * 2 - 1
    shift = vae.config.shift_factor or 0.0
    latent = (vae.encode(image[None]).latent_dist.mode() - shift) * vae.config.scaling_factor
    (ours,) = family.rows([Row(names.image_encoder, (image,))])
    torch.testing.assert_close(ours, latent[0], atol=1e-6, rtol=1e-6)
    decoded = vae.decode(latent / vae.config.scaling_factor + shift).sample
    (picture,) = family.rows([Row(names.image_decoder, (ours,))])
    torch.testing.assert_close(picture, decoded[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_every_step_of_text_to_image_equals_theirs(
    family: FamilyUnderTest, guidance: float
) -> None:
    """Our schedule and our networks in a plain loop, against their pipeline's latents."""
    latent_spec = family.checkpoint.spec(family.checkpoint.names.denoiser, SIZE).inputs[0]
    noise = torch.randn(latent_spec.shape, generator=torch.Generator().manual_seed(7))
    theirs = their_latents(family.theirs, noise, guidance)
    ours = our_latents(family, noise, guidance)
    assert len(ours) == len(theirs) == STEPS
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_the_texts_matter(family: FamilyUnderTest) -> None:
    """A guard on the test above: other words give other latents."""
    spec = family.checkpoint.spec(family.checkpoint.names.denoiser, SIZE).inputs[0]
    noise = torch.randn(spec.shape, generator=torch.Generator().manual_seed(7))
    first, second = (our_latents(family, noise, 3.0, text)[-1] for text in ("a red ball", "sky"))
    assert (first - second).abs().max() > 1e-4


@torch.inference_mode()
def our_latents(
    family: FamilyUnderTest, noise: Tensor, guidance: float, text: str = TEXTS[0]
) -> list[Tensor]:
    description, net = family.checkpoint.family, family.checkpoint.names.denoiser
    schedule = schedule_for(family.checkpoint, STEPS, SIZE)
    guided = guidance != 1 and not description.embeds_guidance
    texts = [family.condition(words) for words in (["", text] if guided else [text])]
    last = [torch.tensor(v).float() for v in description.request_inputs(SIZE, guidance)]
    x, found, generator = noise, [], torch.Generator().manual_seed(RENOISING_SEED)
    for i in range(STEPS, 0, -1):
        timestep = torch.tensor(schedule.timesteps[i])
        out = family.rows([Row(net, (x, timestep, *c, *last)) for c in texts])
        prediction = out[0] + guidance * (out[1] - out[0]) if guided else out[0]
        if family.kind in LCM:  # noise afresh after every step but the last
            x = schedule.split(prediction, x, i)[0]
            if i > 1:
                x = schedule.noise(x, torch.randn(x.shape, generator=generator), i - 1)
        else:
            x = step(schedule, prediction, x, i, i - 1)
        found.append(x)
    return found


def their_latents(theirs: Any, noise: Tensor, guidance: float) -> list[Tensor]:
    name = type(theirs).__name__
    is_lcm = type(theirs.scheduler) is LCMScheduler
    if name.startswith(("StableDiffusionP", "StableDiffusionXL")) and not is_lcm:
        known = dict(theirs.scheduler.config)
        ends_clean = type(theirs.scheduler) is EulerDiscreteScheduler or known["set_alpha_to_one"]
        theirs.scheduler = DDIMScheduler.from_config(
            known, clip_sample=False, set_alpha_to_one=ends_clean
        )
    found: list[Tensor] = []

    def keep(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        latents = kwargs["latents"]
        if name == "FluxPipeline":
            latents = pipe._unpack_latents(latents, *SIZE, pipe.vae_scale_factor)
        found.append(latents[0].clone())
        return {}

    latents = noise[None]
    options: dict[str, Any] = {}
    if name == "FluxPipeline":
        latents = theirs._pack_latents(latents, 1, *noise.shape)
        length = 512 if theirs.transformer.config.guidance_embeds else 256
        options = {"max_sequence_length": length}
        if not theirs.transformer.config.guidance_embeds and guidance != 1:
            options |= {"true_cfg_scale": guidance, "negative_prompt": ""}
    theirs(
        TEXTS[0],
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        latents=latents,
        output_type="latent",
        generator=torch.Generator().manual_seed(RENOISING_SEED),
        callback_on_step_end=keep,
        **options,
    )
    return found
