"""A headless Chromium, driven over a pipe by the DevTools protocol: what a page shows, asks for and complains of.

`python -m tests.golden.browser PAGE.html PICTURE.png [HEIGHT]` takes a picture of a page, as docs/report.png was.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Browser:
    """One browser with one page. `requests` holds the address of everything that the page asked for, `complaints` what its
    console and its security policy said."""

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        found = subprocess.run([ROOT / "scripts" / "chromium.sh", "path"], capture_output=True, text=True, check=False)
        assert found.returncode == 0, "There is no browser: scripts/chromium.sh install"
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._size = (width, height)
        self._number = 0
        self._loaded = False
        self._profile = tempfile.TemporaryDirectory(prefix="modelbake-chromium-", ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        self._received = b""
        self._session: str | None = None
        # The protocol's pipe is the browser's descriptors 3 and 4.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", found.stdout.strip(), *FLAGS, f"--user-data-dir={self._profile.name}"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path: Path) -> None:
        """Load the file and wait until it is loaded."""
        self._loaded = False
        self._call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._message()

    def value(self, expression: str) -> Any:
        """What the expression is in the page, as JSON."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def media(self, kind: str = "", scheme: str = "light") -> None:
        """Show the page as for print, or in the dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=kind, features=features)

    def picture(self) -> bytes:
        """The window as PNG."""
        width, height = self._size
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        return base64.b64decode(self._call("Page.captureScreenshot", format="png", clip=clip)["data"])

    def pdf(self) -> bytes:
        return base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            request["sessionId"] = self._session
        os.write(self._write, json.dumps(request).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _message(self) -> dict[str, Any]:
        """The next message, which ends with a null byte; events are noted."""
        while b"\0" not in self._received:
            piece = os.read(self._read, 1 << 16)
            assert piece, "The browser ended."
            self._received += piece
        data, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(data)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        return message

    def close(self) -> None:
        os.close(self._write)
        try:
            # Without its pipe it ends by itself.
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def main(page: str, picture: str, height: str = "1500") -> None:
    """Takes the picture, with as few colours as it needs: it is kept in git."""
    from io import BytesIO

    from PIL import Image

    with Browser(height=int(height)) as browser:
        browser.open(Path(page).resolve())
        image = Image.open(BytesIO(browser.picture())).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
