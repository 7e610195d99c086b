"""A container engine: docker where its engine runs, else Debian's podman with what it needs to run inside a sandbox."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 30
HARDENED = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
_BASE = "localhost/flowpod-base:trixie"
_CERTIFICATES = re.compile(r"^cert\s*=.*$", re.MULTILINE)


class Engine:
    """Builds and runs images on this machine."""

    def __init__(self, folder: Path) -> None:
        docker = shutil.which("docker")
        if docker and subprocess.run([docker, "info"], capture_output=True).returncode == 0:
            self._command, self._build, self._run, self._remove = docker, [], [], []
        else:
            self._command = shutil.which("podman") or "podman"
            self._build = ["--isolation", "chroot", "--format", "docker", "--layers", "--build-arg", f"BASE={_BASE}"]
            self._run = ["--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
            # Its own /tmp and /run would be writable, and systemd is not there to run health checks.
            self._run += ["--read-only-tmpfs=false", "--no-healthcheck"]
            self._remove = ["--time", "0"]
        self.secrets = _pip_secrets(folder)

    def build(self, context: Path, tag: str, **arguments: str) -> subprocess.CompletedProcess[str]:
        """Build the image `tag`; what it printed is in `stdout`."""
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options += [f"--secret=id={path.name},src={path}" for path in self.secrets]
        command = [self._command, "build", "--network", "host", *self._build, *options, "-t", tag, "."]
        return subprocess.run(command, cwd=context, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def call(self, *arguments: str) -> str:
        """Run a command of the engine and return what it prints."""
        done = subprocess.run([self._command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what the engine knows of an image, its health check in `Config` as docker has it."""
        found: dict[str, Any] = json.loads(self.call("image", "inspect", image))[0]
        found["Config"].setdefault("Healthcheck", found.get("Healthcheck"))
        return found

    def once(self, image: str, *options: str, command: Sequence[str] = (), entrypoint: str = "flowpod") -> str:
        """Run a command in a new container, hardened, and return what it prints."""
        given = [*HARDENED, "--entrypoint", entrypoint, *options]
        return self.call("run", "--rm", *self._run, *given, image, *command)

    def loosely(self, image: str, *options: str, command: Sequence[str], entrypoint: str) -> str:
        """Run a command in a new container with the engine's own defaults, and return what it prints."""
        return self.call("run", "--rm", *self._run, "--entrypoint", entrypoint, *options, image, *command)

    def shell(self, script: str, folder: Path) -> None:
        """Run commands as a document shows them, with docker as this engine."""
        options = " ".join(shlex.quote(option) for option in self._run)
        script = script.replace("docker run ", f"docker run {options} ").replace("docker ", f"{self._command} ")
        done = subprocess.run(["bash", "-ec", script], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def wait_for(self, text: str, container: str) -> None:
        """Wait until a container has logged `text`."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while text not in self.logs(container):
            assert time.monotonic() < deadline, self.logs(container)
            time.sleep(0.05)

    def logs(self, container: str) -> str:
        """Return what a container has written so far."""
        command = [self._command, "logs", container]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout

    @contextmanager
    def started(self, image: str, *options: str, command: Sequence[str] = ()) -> Iterator[str]:
        """Start a container, hardened, until the block ends; yield its id."""
        container = self.call("run", "--detach", *self._run, *HARDENED, *options, image, *command).strip()
        try:
            yield container
        finally:
            self.call("rm", "--force", "--volumes", *self._remove, container)

    @contextmanager
    def serving(self, image: str, *options: str, more: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
        """Serve on a free port of this machine until the block ends; yield the container's id and its URL."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = ["serve", "/app/flow", "--host", "127.0.0.1", "--port", str(port), *more]
        with self.started(image, "--network", "host", *options, command=command) as container:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _is_ready(url):
                assert time.monotonic() < deadline, self.logs(container)
                time.sleep(0.05)
            yield container, url


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _pip_secrets(folder: Path) -> list[Path]:
    """Return files for a build's secrets: this machine's pip configuration and certificates."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = dict(re.findall(r"^[:\w]+:?\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE))
    text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    configuration, authorities = folder / "pip.conf", folder / "ca.crt"
    configuration.touch(0o600)
    configuration.write_text(_CERTIFICATES.sub("cert = /run/secrets/ca.crt", text))
    if "cert" not in settings:
        return [configuration]
    shutil.copyfile(settings["cert"], authorities)
    return [configuration, authorities]
