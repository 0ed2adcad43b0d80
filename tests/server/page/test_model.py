"""The page of a model that takes no negative prompt: its facts, defaults and options."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from playwright.sync_api import Route, expect

from demo import random_checkpoint
from tests.server.helpers import ROOT, free_port
from tests.server.page.actions import OpenPage, click, fill_prompts, scene_image, upload
from tests.server.page.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a tiny FLUX on PyTorch."""
    folder = random_checkpoint.make(tmp_path_factory.mktemp("flux") / "flux", "tiny-flux")
    port = free_port()
    command = [sys.executable, "-m", "diffedit.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--model", str(folder), "--backend", "torch", "--device", "cpu"],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield Server(process, f"http://127.0.0.1:{port}").wait()
    process.kill()
    process.wait()


def card(url: str) -> dict[str, object]:
    (model,) = httpx.get(f"{url}/v1/models").json()["data"]
    return dict(model)


def test_page_shows_the_model_and_its_defaults(visit: OpenPage, flux: str) -> None:
    page, model = visit(flux).page, card(flux)
    footer = page.locator("#model")
    expect(footer).to_contain_text("flux")
    expect(footer).to_contain_text(f"{model['native_size']} px")
    upload(page, scene_image())
    page.get_by_text("More settings", exact=True).click()
    presets = model["presets"]
    assert isinstance(presets, dict)
    defaults = presets["balanced"]
    for name in ("num_inference_steps", "guidance_scale", "strength"):
        field = page.locator(f"[name={name}]")
        expect(field).to_be_visible()
        expect(field).to_have_attribute("placeholder", f"{defaults[name]:g}")
    expect(page.locator("[name=negative_prompt]")).to_be_hidden()


def test_hidden_option_is_not_sent(visit: OpenPage, flux: str) -> None:
    """A negative prompt that was stored while another model was served."""
    page = visit(flux).page
    upload(page, scene_image())
    fill_prompts(page)
    page.evaluate("document.querySelector('[name=negative_prompt]').value = 'blurry'")
    page.evaluate("document.querySelector('[name=num_inference_steps]').value = '2'")
    expect(page.locator("[name=negative_prompt]")).to_be_hidden()
    fields = page.evaluate("import('/form.js').then((form) => form.formFields(false))")
    assert fields["num_inference_steps"] == 2
    assert "negative_prompt" not in fields
    click(page, "Edit directly")
    expect(page.locator("#result")).to_be_visible()


@pytest.mark.parametrize("few_steps", [True, False])
def test_the_hint_says_which_preset_suits_the_model(
    few_steps: bool, visit: OpenPage, flux: str
) -> None:
    page = visit(flux).page

    def answer(route: Route) -> None:
        response = route.fetch()
        models = response.json()
        models["data"][0]["few_steps"] = few_steps
        route.fulfill(response=response, json=models)

    page.route("**/v1/models", answer)
    page.reload()
    upload(page, scene_image())
    hint, better, weak = page.locator("#presetHint"), "Instant may do better", "may be weak"
    expect(hint).to_have_text(re.compile("A good start"))
    expect(hint).to_have_text(re.compile(better if few_steps else r"Thorough\.$"))
    page.locator("[name=preset][value=instant]").check(force=True)
    expect(hint).to_have_text(re.compile("A single step"))
    expect(hint).to_have_text(re.compile(r"LCM\)\.$" if few_steps else weak))
