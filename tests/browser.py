"""A headless Chromium, driven over its own protocol: open a page, press keys, take a picture."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]
PATIENCE = 60.0
"""Seconds that a slow machine may take for anything."""


class Browser:
    """One tab; a context manager that ends what it started."""

    def __enter__(self) -> Browser:
        import websocket

        self._home = tempfile.mkdtemp()
        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={self._home}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = self._wait_for(self._port)
            address = f"http://127.0.0.1:{port}/json/list"
            tab = self._wait_for(lambda: self._tab(address))
            self._socket = websocket.create_connection(
                tab, timeout=PATIENCE, max_size=None, suppress_origin=True
            )
        except BaseException:
            self.__exit__()
            raise
        self._number = 0
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        self._process.wait(PATIENCE)
        shutil.rmtree(self._home, ignore_errors=True)

    def open(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Open a file in a window of a size, in a light or dark scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> object:
        """Return the value of a script, awaited."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            replMode=True,
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a script is true."""
        self._wait_for(lambda: self.run(condition), condition)

    def press(self, key: str, code: str, number: int, text: str = "") -> None:
        """Press a key and let it go."""
        about = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, path: Path) -> Path:
        """Save what the window shows."""
        answer = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def complaints(self) -> list[str]:
        """Return what went wrong on the page: errors, and what its policy kept it from loading."""
        wrong = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in wrong]

    def requests(self) -> list[str]:
        """Return what the page asked for, the page itself included."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def call(self, command: str, **arguments: object) -> dict:
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": command, "params": arguments}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{command}: {answer['error']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def _port(self) -> str | None:
        file = Path(self._home) / "DevToolsActivePort"
        return file.read_text().split("\n")[0] if file.is_file() else None

    def _tab(self, address: str) -> str | None:
        from urllib.request import ProxyHandler, build_opener

        # The browser is on this machine: a proxy, where one is set, is not to be asked.
        with build_opener(ProxyHandler({})).open(address, timeout=PATIENCE) as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        return tabs[0]["webSocketDebuggerUrl"] if tabs else None

    def _wait_for(self, what: object, name: str = "the browser") -> object:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            value = what()
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"waited {PATIENCE:g} s in vain for {name}")
