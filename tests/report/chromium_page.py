"""Drives headless Chromium through its DevTools pipe: real clicks and keys, and its console.

Messages are JSON, each ended by a zero byte; Chromium reads them from file descriptor 3 and writes
to 4. Nothing but the standard library is needed, and no port is opened.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe", "--window-size=1200,900"),
)
_ENTRY = (
    "import os, sys; reading, writing = map(int, sys.argv[1:3]); "
    "os.dup2(reading, 103); os.dup2(writing, 104); os.dup2(103, 3); os.dup2(104, 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
}


def find_chromium() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class ChromiumPage:
    """One tab with a page; `console` holds what was said there, errors of policy included."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._buffer, self._number, self._session = b"", 0, None
        self._loaded = False
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol; gives its result."""
        self._number += 1
        told = {"id": self._number, "method": method, "params": params}
        if self._session:
            told["sessionId"] = self._session
        os.write(self._writing, json.dumps(told).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of some size."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.ask("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._note(self._next())

    def value(self, script: str) -> Any:
        """Give what an expression comes to in the page."""
        told = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def click(self, element: str) -> None:
        """Click on the middle of an element, as a mouse does.

        Args:
            element: expression that gives it.
        """
        self.value(f"({element}).scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.value(f"(({element}).getBoundingClientRect().toJSON())")
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key: str) -> None:
        """Press a key of KEYS and let it go."""
        self.ask("Input.dispatchKeyEvent", type="keyDown", **KEYS[key])
        self.ask("Input.dispatchKeyEvent", type="keyUp", **KEYS[key])

    def picture(self, whole: bool = False) -> bytes:
        """Give what is seen, or the whole page, as PNG."""
        told = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(told["data"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._reading, 1 << 20)
            assert received, "Chromium has gone"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.consoleAPICalled":
                said = [str(each.get("value", each.get("description"))) for each in params["args"]]
                self.console.append(" ".join(said))
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@contextlib.contextmanager
def chromium_page(chromium: str, profile: Path) -> Iterator[ChromiumPage]:
    """Start Chromium with a profile of its own; it ends on leaving."""
    to_browser, from_here = os.pipe()
    from_browser, to_here = os.pipe()
    command = [sys.executable, "-c", _ENTRY, str(to_browser), str(to_here), chromium, *_QUIET]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(to_browser, to_here),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(to_here)
    try:
        yield ChromiumPage(from_browser, from_here)
    finally:
        os.close(from_here)
        os.close(from_browser)
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
