"""A Jupyter server of its own, and its kernel asked directly."""

from __future__ import annotations

import ast
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S, KERNEL_S = 120.0, 120.0
NO_NEWS = '{"fetchNews": "false", "checkForUpdates": false}'  # else JupyterLab asks whether it may


@dataclass
class Jupyter:
    """A running server.

    Attributes:
        app: its module. url: of its root, with a slash at the end. token: who has it may come in.
        folder: what it serves. runtime: the folder of its connection files.
    """

    app: str
    url: str
    token: str
    folder: Path
    runtime: Path

    def address(self, notebook: str) -> str:
        """Where a browser opens a notebook of the folder."""
        place = "lab/tree" if self.app == "jupyterlab" else "notebooks"
        return f"{self.url}{place}/{notebook}?token={self.token}"

    def ask(self, expression: str) -> Any:
        """The value of an expression in the kernel, of types that Python's literals have.

        Not through the browser: over a connection of its own, to the youngest kernel.
        """
        from jupyter_client.blocking.client import BlockingKernelClient

        files = sorted(self.runtime.glob("kernel-*.json"), key=lambda path: path.stat().st_mtime)
        client = BlockingKernelClient()
        client.load_connection_file(str(files[-1]))
        client.start_channels()
        try:
            client.wait_for_ready(timeout=KERNEL_S)
            asked = client.execute("", user_expressions={"it": expression}, store_history=False)
            while True:
                reply = client.get_shell_msg(timeout=KERNEL_S)
                if reply["parent_header"].get("msg_id") == asked:
                    break
        finally:
            client.stop_channels()
        found = reply["content"]["user_expressions"]["it"]
        assert found["status"] == "ok", found
        return ast.literal_eval(found["data"]["text/plain"])


@contextmanager
def jupyter(app: str, folder: Path, state: Path) -> Iterator[Jupyter]:
    """Serve a folder on this machine; all that Jupyter keeps lies in `state`.

    Args:
        app: the module to run: `"jupyterlab"` or `"notebook"`.
    """
    kept = {
        name: str(state / name.lower())
        for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR",
        )
    }  # fmt: skip
    if app == "jupyterlab":
        settings = Path(kept["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab", "apputils-extension")
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(NO_NEWS)
    token = secrets.token_hex(16)
    options = ["--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--allow-root"]
    command = [sys.executable, "-m", app, *options, f"--ServerApp.root_dir={folder}"]
    environment = {**os.environ, **kept, "JUPYTER_TOKEN": token}
    with open(state / "log.txt", "w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            url = _address(process, Path(kept["JUPYTER_RUNTIME_DIR"]), state / "log.txt")
            yield Jupyter(app, url, token, folder, Path(kept["JUPYTER_RUNTIME_DIR"]))
        finally:
            process.terminate()  # it ends its kernels first
            process.wait(timeout=60)


def _address(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())["url"]
            except ValueError:  # it is being written
                pass
        time.sleep(0.1)
    raise RuntimeError(f"Jupyter did not start: {log.read_text()[-2000:]}")
