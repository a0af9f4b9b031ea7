"""Pages in a headless Chromium, over the DevTools protocol."""

import asyncio
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Page:
    """One open page, over the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket, self._numbers = socket, itertools.count(1)
        self.complaints: list[str] = []  # of the page's own script

    async def call(self, method: str, **parameters) -> dict:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def open(self, url: str, width: int, height: int) -> None:
        await self.call("Runtime.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        await self.call("Page.navigate", url=url)
        while not await self.run("document.readyState === 'complete' && location.protocol === 'file:'"):
            await asyncio.sleep(0.05)

    async def run(self, script: str):
        """The value of an expression in the page, after what it caused has happened."""
        await asyncio.sleep(0.05)
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "/": 191}
        event = {"key": key, "windowsVirtualKeyCode": codes[key]}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **event)


def visit_page(url: str, width: int, height: int, scenario: Callable[[Page], Awaitable[None]], profile: Path) -> None:
    """Open `url` in a window of that size and run `scenario` on it; a page whose script fails, fails the test."""
    command = [find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_visit(_port(browser, profile), url, width, height, scenario))
    finally:
        browser.kill()
        browser.wait()


async def _visit(port: int, url: str, width: int, height: int, scenario) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{port}/json") as response:
            target = next(one for one in await response.json() if one["type"] == "page")
        async with http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            await page.open(url, width, height)
            await scenario(page)
            assert page.complaints == []


def _port(browser: subprocess.Popen, profile: Path) -> int:
    file = profile / "DevToolsActivePort"
    while not (file.exists() and file.read_text().count("\n")):
        assert browser.poll() is None, "Chromium did not start"
        time.sleep(0.05)
    return int(file.read_text().splitlines()[0])
