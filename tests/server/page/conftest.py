"""Servers with fake networks, a real browser, and pages that report their errors.

Every test also fails on console errors, uncaught exceptions and violations of the page's
Content-Security-Policy. Tests that provoke HTTP errors declare them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2 as httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    sync_playwright,
)

from tests.server.helpers import ROOT, free_port, wait_until
from tests.server.page.actions import KEY, OpenPage, Visit

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Server:
    """A server process with fake networks."""

    process: subprocess.Popen[bytes]
    url: str

    def wait(self) -> str:
        """Wait until the server is ready and return its URL."""
        wait_until(self._ready, "the server is ready", 180)
        return self.url

    def _ready(self) -> bool:
        assert self.process.poll() is None, "the server ended before it was ready"
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


def launch(call_ms: float, *arguments: str, **settings: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "demo.fake_server", "--port", str(port)]
    command += ["--call-ms", str(call_ms), *arguments]
    named = {f"DIFFEDIT_SERVE_{name.upper()}": value for name, value in settings.items()}
    environment = {**os.environ, **named}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return Server(process, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Three servers: a fast one, a slow one without a queue, and one that needs a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"alice {KEY}\n")
    started = {
        "fast": launch(2, "--fault", "nan"),
        "slow": launch(40, max_queue_seconds="0.05"),
        "secured": launch(1, api_keys=str(keys)),
    }
    yield started
    for server in started.values():
        server.process.kill()
        server.process.wait()


@pytest.fixture
def fast(servers: dict[str, Server]) -> str:
    return servers["fast"].wait()


@pytest.fixture
def slow(servers: dict[str, Server]) -> str:
    return servers["slow"].wait()


@pytest.fixture
def secured(servers: dict[str, Server]) -> str:
    return servers["secured"].wait()


@pytest.fixture(scope="module")  # Playwright's event loop would disturb other folders' tests
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(CHROMIUM)} is installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


REPORT_CSP_VIOLATIONS = (
    "addEventListener('securitypolicyviolation', (event) => "
    "console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
)


@pytest.fixture
def visit(browser: Browser) -> Iterator[OpenPage]:
    """`visit(url, width=...)` opens a page in a new browser context."""
    visits: list[tuple[Visit, BrowserContext]] = []

    def open_page(url: str, width: int = 1280, dark: bool = False) -> Visit:
        size = {"width": width, "height": 844}
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(REPORT_CSP_VIOLATIONS)
        visited = Visit(page)
        page.on("console", visited.on_console)
        page.on("pageerror", lambda error: visited.errors.append(str(error)))
        visits.append((visited, context))
        page.goto(url)
        page.locator("#drop").wait_for()
        return visited

    yield open_page
    errors = [visited.errors for visited, _ in visits]
    for _, context in visits:
        context.close()
    assert errors == [[] for _ in visits]
