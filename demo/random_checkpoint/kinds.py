"""The configs of every kind of random checkpoint, with the field names of diffusers' folders.

"tiny" kinds have every type of layer of the real networks at a thousandth of the size. The others
have the published dimensions.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

SD_SCHEDULER: Config = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""The scheduler configuration of Stable Diffusion 1.x."""
XL_SCHEDULER: Config = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
"""The scheduler configuration of Stable Diffusion XL."""
FLOW_SCHEDULER: Config = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
"""The scheduler configuration of Stable Diffusion 3."""
FLUX_SCHEDULER: Config = {
    **FLOW_SCHEDULER,
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "use_dynamic_shifting": True,
}
"""The scheduler configuration of FLUX.1 dev."""


def _unet(channels: tuple[int, ...], attention: tuple[bool, ...], **config: Any) -> Config:
    """Return a UNet's config; `attention` says which levels have cross-attention, finest first."""
    return {
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention[::-1]],
        **config,
    }


def _vae(channels: tuple[int, ...], sample_size: int, **config: Any) -> Config:
    blocks = len(channels)
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "latent_channels": 4,
        "sample_size": sample_size,
        **config,
    }


def _text(width: int, intermediate: int, layers: int, heads: int, **config: Any) -> Config:
    return {
        "hidden_size": width,
        "intermediate_size": intermediate,
        "max_position_embeddings": 77,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": width,
        **config,
    }


def _t5(width: int, layers: int, heads: int, intermediate: int) -> Config:
    return {
        "d_model": width,
        "d_kv": 64 if width > 1000 else 8,
        "d_ff": intermediate,
        "num_layers": layers,
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "use_cache": False,
        "dense_act_fn": "gelu_new",
    }


LCM_SCHEDULER: Config = {
    **SD_SCHEDULER,
    "_class_name": "LCMScheduler",
    "original_inference_steps": 50,
    "timestep_scaling": 10.0,
}
"""The scheduler configuration of distilled latent consistency models."""
TURBO_SCHEDULER: Config = {**XL_SCHEDULER, "timestep_spacing": "trailing"}
"""The scheduler configuration of SD-Turbo, SDXL-Turbo and SDXL-Lightning."""

_SD_ATTENTION, _SD_CHANNELS = (True, True, True, False), (320, 640, 1280, 1280)
_TINY_VAE = {"layers_per_block": 1, "norm_num_groups": 8}
_SIXTEEN = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_SD3_VAE = {**_SIXTEEN, "scaling_factor": 1.5305, "shift_factor": 0.0609}
_FLUX_VAE = {**_SIXTEEN, "scaling_factor": 0.3611, "shift_factor": 0.1159}
_XL_VAE = {"scaling_factor": 0.13025, "force_upcast": True}
_CLIP_L = _text(768, 3072, 12, 12, vocab_size=49408)
_CLIP_G = _text(1280, 5120, 32, 20, vocab_size=49408, hidden_act="gelu")
_TINY_CLIP = _text(32, 64, 2, 4)
_XL_UNET = {"addition_embed_type": "text_time", "use_linear_projection": True}
_TINY_FLUX = {
    "patch_size": 1, "in_channels": 64, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32,
    "pooled_projection_dim": 32, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
_TINY_SD3 = {
    "sample_size": 16, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2,
    "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 96,
    "caption_projection_dim": 32, "pooled_projection_dim": 64, "pos_embed_max_size": 32,
    "dual_attention_layers": (0,), "qk_norm": "rms_norm",
}  # fmt: skip

_TINY: dict[str, Config] = {
    "text_encoder": _TINY_CLIP,
    "vae": _vae((16, 32, 32), 64, **_TINY_VAE),
    "unet": _unet(
        (32, 64), (True, False), sample_size=16, layers_per_block=1, cross_attention_dim=32,
        attention_head_dim=4, norm_num_groups=8,
    ),
}  # fmt: skip
_TINY_SDXL: dict[str, Config] = {
    "text_encoder": _TINY_CLIP,
    "text_encoder_2": _text(32, 64, 2, 4, hidden_act="gelu"),
    "vae": _vae((16, 32, 32), 64, **_TINY_VAE, **_XL_VAE),
    "unet": _unet(
        (32, 64), (False, True), sample_size=16, layers_per_block=1, cross_attention_dim=64,
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), norm_num_groups=8,
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=80, **_XL_UNET,
    ),
}  # fmt: skip

KINDS: dict[str, dict[str, Config]] = {
    "tiny": {**_TINY, "scheduler": SD_SCHEDULER},
    "tiny-turbo": {**_TINY, "scheduler": TURBO_SCHEDULER},
    "tiny-lcm": {
        **_TINY,
        "unet": {**_TINY["unet"], "time_cond_proj_dim": 32},
        "scheduler": LCM_SCHEDULER,
    },
    "demo": {
        "text_encoder": _text(64, 256, 2, 4),
        "vae": _vae((32, 32, 64), 128, layers_per_block=1),
        "unet": _unet(
            (64, 128, 128), (True, True, False), sample_size=32, layers_per_block=1,
            cross_attention_dim=64, attention_head_dim=4,
        ),
        "scheduler": SD_SCHEDULER,
    },
    "sd15": {
        "text_encoder": _CLIP_L,
        "vae": _vae((128, 256, 512, 512), 512, layers_per_block=2),
        "unet": _unet(
            _SD_CHANNELS, _SD_ATTENTION, sample_size=64, layers_per_block=2,
            cross_attention_dim=768, attention_head_dim=8,
        ),
        "scheduler": SD_SCHEDULER,
    },
    "sd21": {
        "text_encoder": {
            **_text(1024, 4096, 23, 16, vocab_size=49408, hidden_act="gelu"), "projection_dim": 512,
        },
        "vae": _vae((128, 256, 512, 512), 768, layers_per_block=2),
        "unet": _unet(
            _SD_CHANNELS, _SD_ATTENTION, sample_size=96, layers_per_block=2,
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True, upcast_attention=True,
        ),
        "scheduler": {
            **SD_SCHEDULER, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction",
        },
    },
    "tiny-sdxl": {**_TINY_SDXL, "scheduler": XL_SCHEDULER},
    "tiny-sdxl-turbo": {**_TINY_SDXL, "scheduler": TURBO_SCHEDULER},
    "tiny-sdxl-lcm": {
        **_TINY_SDXL,
        "unet": {**_TINY_SDXL["unet"], "time_cond_proj_dim": 32},
        "scheduler": LCM_SCHEDULER,
    },
    "sdxl": {
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_G,
        "vae": _vae((128, 256, 512, 512), 1024, layers_per_block=2, **_XL_VAE),
        "unet": _unet(
            (320, 640, 1280), (False, True, True), sample_size=128, layers_per_block=2,
            cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10), addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816, **_XL_UNET,
        ),
        "scheduler": XL_SCHEDULER,
    },
    "tiny-sd3": {
        "text_encoder": _TINY_CLIP,
        "text_encoder_2": _text(32, 64, 2, 4, hidden_act="gelu"),
        "text_encoder_3": _t5(96, 2, 4, 64),
        "vae": _vae((16, 32, 32), 64, **_TINY_VAE, **_SD3_VAE),
        "transformer": _TINY_SD3,
        "scheduler": FLOW_SCHEDULER,
    },
    "tiny-sd3-no-t5": {
        "text_encoder": _TINY_CLIP,
        "text_encoder_2": _text(32, 64, 2, 4, hidden_act="gelu"),
        "vae": _vae((16, 32, 32), 64, **_TINY_VAE, **_SD3_VAE),
        "transformer": {**_TINY_SD3, "dual_attention_layers": (), "qk_norm": None},
        "scheduler": FLOW_SCHEDULER,
    },
    "sd35-medium": {
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_G,
        "vae": _vae((128, 256, 512, 512), 1024, layers_per_block=2, **_SD3_VAE),
        "transformer": {
            "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16,
            "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
            "joint_attention_dim": 4096, "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
        },
        "scheduler": FLOW_SCHEDULER,
    },
    "tiny-flux": {
        "text_encoder": _TINY_CLIP,
        "text_encoder_2": _t5(32, 2, 4, 64),
        "vae": _vae((16, 32, 32), 64, **_TINY_VAE, **_FLUX_VAE),
        "transformer": {**_TINY_FLUX, "guidance_embeds": True},
        "scheduler": FLUX_SCHEDULER,
    },
    "tiny-schnell": {
        "text_encoder": _TINY_CLIP,
        "text_encoder_2": _t5(32, 2, 4, 64),
        "vae": _vae((16, 32, 32), 64, **_TINY_VAE, **_FLUX_VAE),
        "transformer": {**_TINY_FLUX, "guidance_embeds": False},
        "scheduler": {**FLOW_SCHEDULER, "shift": 1.0},
    },
    "flux": {
        "text_encoder": _CLIP_L,
        "text_encoder_2": {**_t5(4096, 24, 64, 10240), "vocab_size": 32128},
        "vae": _vae((128, 256, 512, 512), 1024, layers_per_block=2, **_FLUX_VAE),
        "transformer": {
            "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
            "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
            "pooled_projection_dim": 768, "axes_dims_rope": (16, 56, 56), "guidance_embeds": True,
        },
        "scheduler": FLUX_SCHEDULER,
    },
}  # fmt: skip
"""Kind -> part -> config. "sd35-medium" has no T5 encoder: its 4.8 B weights are optional."""

TEXT_GAIN = {"sd15": 8.0, "sd21": 8.0, "sdxl": 8.0}
"""Factor on the value and output weights of cross-attention, by kind (1 for the others).

With random weights two texts would differ by little more than rounding. The factor makes the mask
the same in every precision.
"""
