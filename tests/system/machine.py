"""A whole Debian with systemd as its first process, in a container: made once, then booted for each run on a throw-away layer.

It has no network but its own loopback, and systemd inside of it is not the host's. Everything here is bounded in time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

# What ssecast is tested with; all of it is in the image, since the container has no network.
PACKAGES = "systemd,systemd-sysv,dbus,init-system-helpers,nginx-light,redis-server,curl,procps,logrotate"
# Part of the image's key, beside the list above: raise it when the making of the image changes.
RECIPE = "1"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class CannotBoot(Exception):
    """This host can't make or boot the container; says why."""


class Failed(Exception):
    """A command in the container failed, or a condition did not come true in time."""


def wait_for(what: str, condition: Callable[[], object], seconds: float = 10) -> object:
    """Waits until `condition` is true, and gives what it gave."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise Failed(f"waited {seconds:g} s for: {what}")
        time.sleep(0.02)
    return value


def image() -> pathlib.Path:
    """The folder with the Debian, made at the first call on a host: SSECAST_CACHE, by default /var/cache/ssecast-tests."""
    if os.geteuid() != 0:
        raise CannotBoot("it takes root to boot a container")
    for program in ("debootstrap", "systemd-nspawn", "nsenter", "setpriv"):
        if not shutil.which(program):
            raise CannotBoot(f"{program} is not installed")
    if not pathlib.Path(KEYRING).exists():
        raise CannotBoot("debian-archive-keyring is not installed")
    release, mirror = _debian()
    cache = pathlib.Path(os.environ.get("SSECAST_CACHE") or "/var/cache/ssecast-tests")
    cache.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("\n".join([release, platform.machine(), PACKAGES, RECIPE]).encode()).hexdigest()[:12]
    folder = cache / f"debian-{key}"
    with (cache / "lock").open("w") as lock:
        # Two runs at a time make one image.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _make(release, mirror, folder)
    return folder


def _debian() -> tuple[str, str]:
    """The release this host is, and where its apt gets it from."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or "VERSION_CODENAME" not in release:
        raise CannotBoot("the host is no Debian, so its apt sources have none to offer")
    codename = release["VERSION_CODENAME"]
    indexes = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    for line in indexes.stdout.splitlines():
        name, _, mirror = line.partition(" ")
        if name == codename and "://" in mirror:
            return codename, mirror
    raise CannotBoot(f"apt has no source for {codename}; is /etc/apt set up, and has apt-get update run?")


def _make(release: str, mirror: str, folder: pathlib.Path) -> None:
    print(f"making a Debian {release} for the tests; this is done once", flush=True)
    part, log = folder.with_suffix(".part"), folder.with_suffix(".log")
    shutil.rmtree(part, ignore_errors=True)
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={PACKAGES}",
        f"--keyring={KEYRING}",
        release,
        part,
        mirror,
    ]
    with log.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, timeout=540)
    if done.returncode != 0:
        raise CannotBoot(f"debootstrap failed: {_tail(log.read_text(errors='replace'), 3)}")
    shutil.rmtree(part / "var/cache/apt/archives", ignore_errors=True)
    # The name of a machine that has booted; each run is to be a new one.
    (part / "etc/machine-id").write_text("")
    part.rename(folder)
    log.unlink()


def _tail(text: str, lines: int) -> str:
    return " / ".join(text.strip().splitlines()[-lines:])


class Machine:
    """A running container."""

    def __init__(self, root: pathlib.Path, init: int) -> None:
        self.root = root
        self.init = init

    def run(
        self, command: str, *, seconds: float = 30, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a shell command in the container, as its root."""
        try:
            done = subprocess.run(
                self.enter("sh", "-c", command),
                input=stdin,
                env=_ENVIRONMENT,
                text=True,
                errors="replace",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                # A signal to the command's own process group stays in the container.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as expired:
            raise Failed(f"`{command}` took more than {seconds:g} s: {expired.output!r}") from None
        if check and done.returncode != 0:
            raise Failed(f"`{command}` ended with {done.returncode}: {done.stdout.strip()}")
        return done

    def says(self, command: str, **options: float) -> str:
        """What a command that must succeed prints."""
        return self.run(command, **options).stdout.strip()

    def succeeds(self, command: str, **options: float) -> bool:
        """Whether a command ends with 0."""
        return self.run(command, check=False, **options).returncode == 0

    def file(self, path: str) -> pathlib.Path:
        """A file of the container, as the host sees it. Not for what is mounted there, such as /run and /tmp."""
        return self.root / path.lstrip("/")

    def enter(self, *command: str) -> list[str]:
        """The command that runs `command` in the container."""
        return ["nsenter", "-t", str(self.init), "-a", "--", *command]

    def start(self, *command: str) -> Running:
        """Starts a command in the container, and goes on."""
        return Running(self.enter(*command))


class Running:
    """A command in the container that is still running, and what it has printed so far."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._printed = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        while chunk := self._process.stdout.read1(65536):
            self._printed += chunk

    @property
    def printed(self) -> str:
        return bytes(self._printed).decode(errors="replace")

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> str:
        """Ends it, and gives all that it has printed."""
        # nsenter waits for a child of its own, which would outlive it.
        if not self.ended and (child := _child(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        return self.printed


# Nothing of the host's environment concerns the container.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}


@contextlib.contextmanager
def booted(lower: pathlib.Path) -> Iterator[Machine]:
    """Boots the image on a layer that is thrown away afterwards. `CannotBoot` says why it does not come up."""
    with tempfile.TemporaryDirectory(prefix="ssecast-system-") as name:
        folder = pathlib.Path(name)
        for layer in ("upper", "work", "root"):
            (folder / layer).mkdir()
        # The container's root, and mktemp makes folders that only their owner may enter.
        (folder / "upper").chmod(0o755)
        root = folder / "root"
        options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "-o", options, "ssecast-system", root], capture_output=True, text=True
        )
        if mounted.returncode != 0:
            raise CannotBoot(f"no overlay file system here: {mounted.stderr.strip()}")
        try:
            yield from _boot(root, folder / "console")
        finally:
            subprocess.run(["umount", root], check=False)


def _boot(root: pathlib.Path, console: pathlib.Path) -> Iterator[Machine]:
    command = [
        # However this process ends, the container ends with it.
        *("setpriv", "--pdeathsig", "KILL"),
        "systemd-nspawn",
        "--quiet",
        "-D",
        str(root),
        "--hostname=ssecast-test",
        "--boot",
        "--console=pipe",
        "--link-journal=no",
        # The host may have no systemd to register with.
        "--register=no",
        "--keep-unit",
        "--private-network",
    ]
    # The container has one cgroup tree, as Debian has, though the host may have several.
    environment = dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1")
    with console.open("wb") as out:
        nspawn = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )

    def init() -> int | None:
        if nspawn.poll() is not None:
            raise CannotBoot(f"systemd-nspawn ended: {_tail(console.read_text(errors='replace'), 3)}")
        # Its first child only prepares the second, which becomes systemd.
        with contextlib.suppress(OSError):
            child = _child(nspawn.pid)
            return child if child and pathlib.Path(f"/proc/{child}/comm").read_text() == "systemd\n" else None
        return None

    try:
        try:
            machine = Machine(root, int(str(wait_for("the container's first process", init, 30))))
            # It names what has failed, if anything has; the tests tell whether that matters.
            wait_for(
                "systemd in the container",
                lambda: machine.succeeds("systemctl is-system-running | grep -E 'running|degraded'"),
                90,
            )
        except Failed as failed:
            raise CannotBoot(f"{failed}; console: {_tail(console.read_text(errors='replace'), 5)}") from None
        yield machine
        machine.run("systemctl poweroff", check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            nspawn.wait(20)
    finally:
        if nspawn.poll() is None:
            if child := _child(nspawn.pid):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                nspawn.wait(10)
            nspawn.kill()
            nspawn.wait()


def _child(parent: int) -> int | None:
    """The first child of a process: the kernel doesn't list them everywhere, so all processes are looked at."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name may have any characters, also a bracket; the parent is the second field after it.
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                return int(process.name)
    return None
