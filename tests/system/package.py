"""Tests of the package on a whole Debian: installed, used, restarted, killed, reloaded, upgraded, removed, purged.

The steps build on each other, in the order in which they stand here. What can't be tested yet says so by `Skipped`.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable

from machine import CannotBoot, Failed, Machine, Running, booted, image, wait_for

EXPOSURE = 1.5
STEPS: list[Callable[[Life], None]] = []


class Skipped(Exception):
    """Why a step can't be tested here."""


def step(function: Callable[[Life], None]) -> Callable[[Life], None]:
    STEPS.append(function)
    return function


class Life:
    """The machine, the packages, and helpers of the steps."""

    def __init__(self, machine: Machine, packages: pathlib.Path) -> None:
        self.machine = machine
        self.packages = packages
        for name in ("older", "newer"):
            shutil.copy(packages / f"{name}.deb", machine.file(f"/srv/{name}.deb"))
        self.files_before = self.files()
        self.conffiles: list[str] = []
        self.streams: list[Running] = []

    def files(self) -> set[str]:
        """Every file there is, but for those that any work on the machine changes."""
        kept_out = "/proc /sys /dev /run /tmp /var/log /var/cache /var/tmp".split()
        kept_out += (f"/var/lib/{name}" for name in ("systemd", "dpkg", "nginx", "redis"))
        prune = " -o ".join(f"-path {path}" for path in kept_out)
        return set(
            self.machine.says(
                f"find / -xdev \\( {prune} \\) -prune -o -print; find /run/ssecast 2>/dev/null || true"
            ).splitlines()
        )

    def install(self, name: str) -> str:
        return self.machine.says(f"DEBIAN_FRONTEND=noninteractive dpkg -i /srv/{name}.deb 2>&1", seconds=60)

    def property(self, name: str, unit: str = "ssecast.service") -> str:
        return self.machine.says(f"systemctl show -P {name} {unit}")

    def main_pid(self) -> str:
        """The daemon's process; empty if there is none. Not 0, since `kill 0` signals the whole process group."""
        pid = self.property("MainPID")
        return "" if pid == "0" else pid

    def running_pid(self) -> str:
        """The daemon's process, which must be there."""
        if not (pid := self.main_pid()):
            raise Failed("the daemon doesn't run")
        return pid

    def stream(self, channel: str, *headers: str) -> Running:
        """A stream through nginx, open and subscribed."""
        more = [option for header in headers for option in ("-H", header)]
        url = f"http://localhost/sse/?channels={channel}"
        stream = self.machine.start("curl", "-sSN", "-D", "-", "-H", "Accept: text/event-stream", *more, url)
        self.streams.append(stream)
        # The head, `retry:` and the id that a new stream begins with.
        wait_for("a stream's beginning", lambda: "\nid: " in stream.printed or stream.ended)
        if not stream.printed.startswith("HTTP/1.1 200"):
            raise Failed(f"a stream through nginx begins with {stream.printed!r}")
        return stream

    def publish(self, channel: str, message: str) -> None:
        """Publishes to the admin socket as an application does."""
        self.machine.says(
            f"curl -sSf --unix-socket /run/ssecast/admin.sock http://localhost/publish -d channel={channel} -d message={message}"
        )

    def healthz(self) -> str:
        """What nginx answers for ssecast now."""
        return self.machine.says(
            "curl -s -o /dev/null -w '%{http_code}' --max-time 20 http://localhost/sse/healthz || true"
        )

    def can_reload(self) -> bool:
        """Whether this ssecast can be upgraded by another process."""
        return self.machine.succeeds("ssecast reload --help")

    def log(self) -> str:
        return self.machine.run(
            "journalctl -q -u 'ssecast*' --no-pager -o short-precise | tail -n 60", check=False
        ).stdout


def receives(stream: Running, data: str) -> None:
    wait_for(f"`{data}` in a stream", lambda: f"data: {data}\n" in stream.printed)


class Asking:
    """Sends requests to ssecast through nginx, each on a new connection, and records the answers."""

    def __init__(self, machine: Machine) -> None:
        ask = "curl -s -o /dev/null -w '%{http_code}\\n' --max-time 20 http://localhost/sse/healthz"
        self._asking = machine.start("sh", "-c", f"while :; do {ask}; sleep 0.02; done")
        wait_for("a first answer", lambda: self._asking.printed)

    def answers(self) -> list[str]:
        """Stops asking. The answers are only such to whole requests."""
        time.sleep(0.3)
        return self._asking.end().splitlines()[:-1]

    def all_well(self) -> None:
        answers = self.answers()
        if set(answers) != {"200"} or len(answers) < 5:
            raise Failed(f"nginx was asked {len(answers)} times and answered {sorted(set(answers))}, not only 200")


def same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Failed(f"{what}: found {found!r}, expected {expected!r}")


@step
def install_starts_sockets_and_service(life: Life) -> None:
    machine = life.machine
    life.install("older")
    for unit in ("ssecast.socket", "ssecast-admin.socket", "ssecast.service"):
        same(unit, machine.says(f"systemctl is-active {unit}; systemctl is-enabled {unit}"), "active\nenabled")
    same(
        "sockets",
        machine.says("stat -c '%n %U:%G %a' /run/ssecast /run/ssecast/*"),
        "/run/ssecast root:root 755\n/run/ssecast/admin.sock root:ssecast 660\n/run/ssecast/ssecast.sock root:www-data 660",
    )
    same("failed units", machine.says("systemctl --failed --no-legend"), "")


@step
def only_root_and_the_daemon_may_read_the_configuration(life: Life) -> None:
    machine = life.machine
    path = "/etc/ssecast/ssecast.toml"
    same("owner and mode", machine.says(f"stat -c '%U:%G %a' {path}"), "root:ssecast 640")

    def may_read(user: str) -> bool:
        return machine.succeeds(f"setpriv --reuid={user} --regid={user} --init-groups cat {path}")

    same("ssecast may read it", may_read("ssecast"), True)
    same("www-data may read it", may_read("www-data"), False)


@step
def its_files_agree_with_the_program(life: Life) -> None:
    machine = life.machine
    same("configuration", machine.says("cat /etc/ssecast/ssecast.toml"), machine.says("ssecast check --defaults"))
    machine.says("ssecast check && bash -n /usr/share/bash-completion/completions/ssecast")
    conffiles = machine.says("dpkg-query -W -f='${Conffiles}' ssecast | awk '{print $1}' | sort").split()
    in_etc = machine.says(
        "dpkg -L ssecast | grep ^/etc/ | while read -r file; do [ -d $file ] || echo $file; done | sort"
    ).split()
    same("conffiles", conffiles, in_etc)
    life.conffiles = conffiles
    machine.says("systemd-analyze verify --man=no ssecast.service ssecast.socket ssecast-admin.socket")


@step
def a_plain_install_has_the_same_files(life: Life) -> None:
    installed = life.packages / "installed"

    def alike(paths: list[str]) -> set[str]:
        # Debian compresses pages, has folders of its own for completions, and knows the licences already; where there are units,
        # a plain install leaves the init script out.
        names = {path.removesuffix(".gz").replace("/site-functions/", "/vendor-completions/") for path in paths}
        return {name for name in names if not re.search(r"/(LICENSE-\w+|copyright|init\.d/ssecast)$", name)}

    plain = ["/" + str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()]
    packaged = life.machine.says("dpkg -L ssecast | while read -r file; do [ -d $file ] || echo $file; done").split()
    same("files", alike(plain), alike(packaged))
    for unit in ("ssecast.service", "ssecast.socket", "ssecast-admin.socket"):
        path = f"usr/lib/systemd/system/{unit}"
        same(unit, (installed / path).read_text(), life.machine.file(path).read_text())


@step
def nginx_and_redis_by_two_lines(life: Life) -> None:
    machine = life.machine
    site = machine.file("/etc/nginx/sites-available/default")
    site.write_text(site.read_text().replace("server_name _;", "server_name _;\n\tinclude snippets/ssecast.conf;", 1))
    machine.says("nginx -t -q && systemctl reload nginx")
    configuration = machine.file("/etc/ssecast/ssecast.toml")
    # Short enough to wait for when it is stopped with streams open.
    text = (
        configuration.read_text()
        .replace('# drain = "10s"', 'drain = "3s"')
        .replace('# spread = "10s"', 'spread = "1s"')
    )
    configuration.write_text(text + '\n[redis]\nurl = "redis://127.0.0.1:6379"\n')
    machine.says("ssecast check && systemctl restart ssecast")
    wait_for("nginx reaches ssecast", lambda: life.healthz() == "200")


@step
def publishes_reach_streams_through_nginx(life: Life) -> None:
    machine = life.machine
    stream = life.stream("news")
    same("receivers", machine.says("redis-cli publish news by-redis-cli"), "1")
    receives(stream, "by-redis-cli")
    life.publish("news", "by-http")
    receives(stream, "by-http")
    machine.says("ssecast publish news by-command")
    receives(stream, "by-command")
    head = stream.printed.split("\r\n\r\n")[0]
    if "text/event-stream" not in head:
        raise Failed(f"the head is {head!r}")


@step
def only_those_meant_may_connect(life: Life) -> None:
    machine = life.machine
    public = "curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/ssecast/ssecast.sock http://localhost/healthz"
    admin = "curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/ssecast/admin.sock http://localhost/healthz"
    machine.says("useradd --system -G ssecast publisher")

    def as_user(user: str, command: str) -> str:
        return machine.run(f"setpriv --reuid={user} --regid={user} --init-groups {command}", check=False).stdout

    same("www-data on the public socket", as_user("www-data", public), "200")
    same("www-data on the admin socket", as_user("www-data", admin), "000")
    same("a member of ssecast on the admin socket", as_user("publisher", admin), "200")
    same("a member of ssecast on the public socket", as_user("publisher", public), "000")
    same(
        "nobody on the admin socket",
        machine.run(f"setpriv --reuid=65534 --regid=65534 --clear-groups {admin}", check=False).stdout,
        "000",
    )


@step
def publishers_are_known_by_their_groups(life: Life) -> None:
    """The kernel's word about a publisher must reach a daemon that the unit shuts in: `PrivateUsers=` would hide the user, and
    `ProtectProc=` the groups from one who looks them up in /proc."""
    machine = life.machine
    configuration = machine.file("/etc/ssecast/ssecast.toml")
    before = configuration.read_text()
    machine.says("useradd --system -G ssecast stranger; groupadd -f press && usermod -aG press publisher")
    configuration.write_text(before.replace("# groups = []", 'groups = ["press"]'))
    publish = "curl -s --unix-socket /run/ssecast/admin.sock http://localhost/publish -d channel=news -d message=x"
    try:
        machine.says("systemctl restart ssecast")
        for user, expected in (("publisher", '"status":"ok"'), ("stranger", "publish.groups")):
            answer = machine.says(f"setpriv --reuid={user} --regid={user} --init-groups {publish}")
            if expected not in answer:
                raise Failed(f"{user} was answered {answer!r}, not {expected}")
    finally:
        configuration.write_text(before)
        machine.says("systemctl restart ssecast")


@step
def the_daemon_has_no_privilege(life: Life) -> None:
    machine = life.machine
    pid = life.running_pid()
    status = dict(
        line.split(":\t", 1) for line in machine.says(f"cat /proc/{pid}/status").splitlines() if ":\t" in line
    )
    user, group = machine.says("id -u ssecast; id -g ssecast").split()
    same("user ids", status["Uid"].split(), [user] * 4)
    same("group ids", status["Gid"].split(), [group] * 4)
    same("groups", status["Groups"].split(), [group])
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        same(capabilities, int(status[capabilities], 16), 0)
    same("NoNewPrivs", status["NoNewPrivs"], "1")
    same("Seccomp", status["Seccomp"], "2")  # by a filter
    limit = re.search(r"Max open files\s+(\d+)\s+(\d+)", machine.says(f"cat /proc/{pid}/limits"))
    # As many as the unit says, where the container may raise its own limit.
    files = life.property("LimitNOFILE")
    if not machine.succeeds(f"prlimit --nofile={files}:{files} true"):
        files = machine.says("ulimit -Hn")
    same("open files", limit and limit.groups(), (files, files))
    # Neither its sockets' folder nor anything else is a place for it to write to.
    as_daemon = f"nsenter -t {pid} -m -- setpriv --reuid={user} --regid={group} --clear-groups"
    for folder in ("/run/ssecast", "/etc/ssecast", "/var/log", "/usr", "/var/lib", "/root", "/home"):
        same(f"the daemon can write to {folder}", machine.succeeds(f"{as_daemon} touch {folder}/x"), False)
    machine.says(f"{as_daemon} touch /var/log/ssecast/x && rm /var/log/ssecast/x")


@step
def exposure_is_low(life: Life) -> None:
    report = life.machine.says("systemd-analyze security --no-pager ssecast.service")
    exposure = re.search(r"Overall exposure level for ssecast.service: ([\d.]+)", report)
    if not exposure or float(exposure[1]) > EXPOSURE:
        raise Failed(f"the exposure is to be {EXPOSURE} at most:\n{report}")
    print(f"  exposure {exposure[1]} by systemd-analyze security")


@step
def the_status_line_tells(life: Life) -> None:
    same("type", life.property("Type"), "notify")
    life.stream("status")
    text = wait_for("a status line", lambda: life.property("StatusText"))
    if not re.search(r"\d", str(text)):
        raise Failed(f"the status line has no figures: {text}")
    print(f"  {text}")


@step
def restart_is_waited_for_in_the_socket(life: Life) -> None:
    machine = life.machine
    stream = life.stream("news")
    asking = Asking(machine)
    for _ in range(3):
        machine.says("systemctl restart ssecast")
    asking.all_well()
    wait_for("the end of a stream", lambda: stream.ended)
    ids = re.findall(r"^id: (\S+)", stream.printed, re.M)
    life.publish("news", "while-away")
    again = life.stream("news", f"Last-Event-ID: {ids[-1]}")
    life.publish("news", "again")
    receives(again, "again")


@step
def stop_and_start(life: Life) -> None:
    machine = life.machine
    machine.says("systemctl stop ssecast.socket ssecast-admin.socket ssecast.service")
    same("sockets left", machine.says("ls /run/ssecast"), "")
    same("processes left", machine.run("pgrep -x ssecast", check=False).stdout, "")
    # EventSource gives up on a 502, so nginx's snippet answers with an empty stream.
    answer = machine.says("curl -sS -i -H 'Accept: text/event-stream' 'http://localhost/sse/?channels=news'")
    if "200 OK" not in answer or "retry: " not in answer:
        raise Failed(f"while ssecast is stopped nginx answers {answer!r}")
    machine.says("systemctl start ssecast")
    same("answer", life.healthz(), "200")
    receives_one(life)


def receives_one(life: Life) -> None:
    """A new stream works."""
    stream = life.stream("fresh")
    life.machine.says("redis-cli publish fresh one")
    receives(stream, "one")


@step
def a_connection_starts_it(life: Life) -> None:
    life.machine.says("systemctl stop ssecast.service 2>&1")
    same("answer", life.healthz(), "200")
    same("state", life.property("ActiveState"), "active")


@step
def kill_9_is_recovered_from(life: Life) -> None:
    machine = life.machine
    before = life.running_pid()
    # What was being answered when it was killed is lost, so nobody asks at that moment.
    machine.says(f"kill -9 {before}")
    same("answer", life.healthz(), "200")
    wait_for("a new process", lambda: life.main_pid() not in ("", before))
    same("state", life.property("ActiveState"), "active")
    receives_one(life)


@step
def a_hung_daemon_is_replaced(life: Life) -> None:
    machine = life.machine
    override = "/run/systemd/system/ssecast.service.d/test.conf"
    machine.says(
        f"mkdir -p {os.path.dirname(override)}; printf '[Service]\\nWatchdogSec=1s\\nTimeoutAbortSec=1s\\n' >{override}"
    )
    try:
        machine.says("systemctl daemon-reload && systemctl restart ssecast")
        before = life.running_pid()
        time.sleep(1.5)
        same("a daemon that is well is left alone", life.main_pid(), before)
        if life.can_reload():
            # Its successor says that it lives, too, though systemd has started another.
            machine.says("systemctl reload ssecast")
            before = life.running_pid()
            time.sleep(2.5)
            same("a successor that is well is left alone", life.main_pid(), before)
        machine.says(f"kill -STOP {before}")
        wait_for("the watchdog", lambda: life.main_pid() not in ("", before), 15)
        same("answer", life.healthz(), "200")
    finally:
        machine.says(f"rm -r {os.path.dirname(override)}; systemctl daemon-reload && systemctl restart ssecast")


@step
def a_wrong_configuration_is_told(life: Life) -> None:
    machine = life.machine
    configuration = machine.file("/etc/ssecast/ssecast.toml")
    before = configuration.read_text()
    configuration.write_text(before + "\n[stream]\nno_such_key = 1\n")
    try:
        # Nobody may connect meanwhile: each connection tries again, until systemd has had enough.
        machine.says("systemctl stop ssecast.socket ssecast-admin.socket ssecast.service")
        same("start", machine.succeeds("systemctl start ssecast"), False)
        same("exit code", life.property("ExecMainStatus"), "64")
        if "no_such_key" not in life.log():
            raise Failed(f"the log doesn't name the key: {life.log()}")
    finally:
        configuration.write_text(before)
    # Fixing the file is enough; the counter of failed starts is not in the way.
    machine.says("systemctl restart ssecast")
    same("answer", life.healthz(), "200")


@step
def reload_goes_on_with_the_same_connections(life: Life) -> None:
    if not life.can_reload():
        raise Skipped("this ssecast has no `reload` yet")
    goes_on(life, lambda: life.machine.says("systemctl reload ssecast"))


def goes_on(life: Life, handover: Callable[[], object]) -> None:
    """Hands over to another process; a stream that was open goes on, on the same connection."""
    stream = life.stream("steady")
    life.publish("steady", "before")
    receives(stream, "before")
    asking = Asking(life.machine)
    before = life.running_pid()
    handover()
    wait_for("another main process", lambda: life.main_pid() not in ("", before))
    life.publish("steady", "after")
    receives(stream, "after")
    same("stream ended", stream.ended, False)
    asking.all_well()
    wait_for("the old process ends", lambda: not life.machine.succeeds(f"kill -0 {before}"))
    same("state", life.property("ActiveState"), "active")


@step
def a_reload_that_fails_changes_nothing(life: Life) -> None:
    if not life.can_reload():
        raise Skipped("this ssecast has no `reload` yet")
    machine = life.machine
    configuration = machine.file("/etc/ssecast/ssecast.toml")
    text, before = configuration.read_text(), life.running_pid()
    stream = life.stream("steady")
    configuration.write_text(text + "\n[stream]\nno_such_key = 1\n")
    try:
        same("reload", machine.succeeds("systemctl reload ssecast"), False)
    finally:
        configuration.write_text(text)
    same("main process", life.main_pid(), before)
    life.publish("steady", "still-here")
    receives(stream, "still-here")
    if "no_such_key" not in life.log():
        raise Failed(f"the log doesn't name the key: {life.log()}")
    wait_for("the reason in the status line", lambda: "no_such_key" in life.property("StatusText"))
    machine.says("systemctl reload ssecast")
    wait_for("a status line without it", lambda: "no_such_key" not in life.property("StatusText"))


@step
def a_successor_is_systemds_as_its_predecessor_was(life: Life) -> None:
    """Although systemd has not started this process, it knows it, restarts it and stops it."""
    if not life.can_reload():
        raise Skipped("this ssecast has no `reload` yet")
    machine = life.machine
    for _ in range(3):
        machine.says("systemctl reload ssecast")
    machine.says(f"kill -9 {life.running_pid()}")
    same("answer", life.healthz(), "200")
    machine.says("systemctl reload ssecast && systemctl restart ssecast && systemctl reload ssecast")
    last = life.running_pid()
    same("processes", machine.says("pgrep -x ssecast"), last)
    same("user", machine.says(f"stat -c %U /proc/{last}"), "ssecast")
    same("confined", machine.says(f"grep -c -E '^(NoNewPrivs:.1|Seccomp:.2|CapBnd:.0+)$' /proc/{last}/status"), "3")
    machine.says("systemctl stop ssecast.socket ssecast-admin.socket ssecast.service")
    same("processes left", machine.run("pgrep -x ssecast", check=False).stdout, "")
    machine.says("systemctl start ssecast")


CROWD = 150


def crowd(life: Life) -> Running:
    """Many streams at once, straight on the socket that nginx proxies to."""
    url = f"http://localhost/?channels=crowd&number=[1-{CROWD}]"
    many = ["--parallel", "--parallel-immediate", "--parallel-max", str(CROWD)]
    streams = life.machine.start("curl", "-sSN", *many, "--unix-socket", "/run/ssecast/ssecast.sock", url)
    life.streams.append(streams)
    stats = "curl -sS --unix-socket /run/ssecast/admin.sock http://localhost/stats"
    wait_for("all streams", lambda: f'["crowd",{CROWD}]' in life.machine.says(stats) or streams.ended)
    return streams


def all_drained(streams: Running) -> None:
    """Every stream got a retry time, at its beginning and before its end."""
    wait_for("the streams' ends", lambda: streams.ended)
    same("times to come back at", streams.printed.count("\nretry: "), 2 * CROWD)


@step
def after_a_reload_restart_and_stop_wait_for_every_client(life: Life) -> None:
    """systemd takes a successor for its own process, and so waits for its drain instead of killing it."""
    if not life.can_reload():
        raise Skipped("this ssecast has no `reload` yet")
    machine = life.machine
    for command in ("restart ssecast", "stop ssecast.service"):
        streams = crowd(life)
        machine.says("systemctl reload ssecast")
        machine.says("systemctl reload ssecast")
        same("streams ended by a reload", streams.ended, False)
        machine.says(f"systemctl {command} 2>&1", seconds=60)
        all_drained(streams)
    machine.says("systemctl start ssecast")
    said = machine.says("journalctl -q -u ssecast.service --no-pager -o cat")
    same("not its own child", "which is not our child" in said, False)


@step
def upgrade_reloads(life: Life) -> None:
    machine = life.machine
    if life.can_reload():
        goes_on(life, lambda: life.install("newer"))
    else:
        asking = Asking(machine)
        life.install("newer")
        asking.all_well()
    same("version", machine.says("dpkg-query -W -f='${Version}' ssecast"), "0.0.1-2")
    # The file of the old version is gone, and nobody runs it.
    same("program", machine.says(f"readlink /proc/{life.running_pid()}/exe"), "/usr/bin/ssecast")
    receives_one(life)
    if not life.can_reload():
        raise Skipped("this ssecast has no `reload` yet: upgraded by a restart that nginx did not notice")


@step
def upgrade_with_a_wrong_configuration_leaves_the_old_one_running(life: Life) -> None:
    machine = life.machine
    configuration = machine.file("/etc/ssecast/ssecast.toml")
    text, before = configuration.read_text(), life.running_pid()
    stream = life.stream("steady")
    configuration.write_text(text + "\n[stream]\nno_such_key = 1\n")
    try:
        life.install("older")
    finally:
        configuration.write_text(text)
    same("main process", life.main_pid(), before)
    life.publish("steady", "undisturbed")
    receives(stream, "undisturbed")


@step
def the_init_script_runs_it_without_systemd(life: Life) -> None:
    """The classic daemon: root starts it, it detaches, and drops what it does not need."""
    machine = life.machine
    # On a machine with systemd, Debian's scripts hand their work to it; this one is to do it itself.
    script = "_SYSTEMCTL_SKIP_REDIRECT=1 SYSTEMCTL_SKIP_REDIRECT=1 /etc/init.d/ssecast"
    configuration = machine.file("/etc/ssecast/ssecast.toml")
    text = configuration.read_text()
    machine.says("systemctl stop ssecast.socket ssecast-admin.socket ssecast.service")
    # systemd-tmpfiles has made it; without systemd the daemon does, and removes its sockets from it.
    machine.says("rmdir /run/ssecast")
    configuration.write_text(text.replace('# public_group = ""', 'public_group = "www-data"'))
    try:
        machine.says(f"{script} start </dev/null")
        same("answer", life.healthz(), "200")
        receives_one(life)
        machine.says(f"{script} status")
        pid = machine.says("cat /run/ssecast.pid")
        status = dict(
            line.split(":\t", 1) for line in machine.says(f"cat /proc/{pid}/status").splitlines() if ":\t" in line
        )
        user, group = machine.says("id -u ssecast; id -g ssecast").split()
        same("user ids", status["Uid"].split(), [user] * 4)
        same("group ids", status["Gid"].split(), [group] * 4)
        same("groups", status["Groups"].split(), [group])
        same("effective and permitted capabilities", (int(status["CapEff"], 16), int(status["CapPrm"], 16)), (0, 0))
        same("NoNewPrivs", status["NoNewPrivs"], "1")
        if life.can_reload():
            stream = life.stream("steady")
            machine.says(f"{script} reload")
            wait_for("another pid in the pidfile", lambda: machine.says("cat /run/ssecast.pid") not in ("", pid))
            life.publish("steady", "after")
            receives(stream, "after")
        machine.says("logrotate --force /etc/logrotate.d/ssecast")
        same("log files", machine.says("ls /var/log/ssecast"), "ssecast.log\nssecast.log.1")
        machine.says(f"{script} stop")
        same("sockets left", machine.says("ls /run/ssecast"), "")
        same("processes left", machine.run("pgrep -x ssecast", check=False).stdout, "")
    finally:
        machine.run(
            f"{script} stop; rm -rf /var/log/ssecast/* /var/lib/logrotate/status /run/ssecast; systemd-tmpfiles --create",
            check=False,
        )
        configuration.write_text(text)
        machine.says("systemctl start ssecast")


@step
def removal_leaves_the_configuration(life: Life) -> None:
    machine = life.machine
    stream = life.stream("news")
    machine.says("dpkg -r ssecast", seconds=60)
    wait_for("the end of a stream", lambda: stream.ended)
    same("processes left", machine.run("pgrep -x ssecast", check=False).stdout, "")
    left = life.files() - life.files_before
    expected = {"/etc/ssecast", *life.conffiles}
    same("files left", left, expected)
    # The init script is configuration, too, and systemd makes a unit of it as soon as anybody asks; it is in no state but dead.
    same("units left", machine.says("systemctl list-units --no-legend --plain 'ssecast*'"), "")
    # The include in nginx's configuration still stands.
    machine.says("nginx -t -q && systemctl restart nginx")
    answer = machine.says("curl -sS -i -H 'Accept: text/event-stream' 'http://localhost/sse/?channels=news'")
    if "retry: " not in answer:
        raise Failed(f"without ssecast nginx answers {answer!r}")


@step
def it_comes_back_as_it_was(life: Life) -> None:
    life.install("newer")
    wait_for("nginx reaches ssecast", lambda: life.healthz() == "200")
    receives_one(life)
    same("configuration kept", "redis://127.0.0.1:6379" in life.machine.says("tail -1 /etc/ssecast/ssecast.toml"), True)


@step
def disabled_stays_disabled(life: Life) -> None:
    machine = life.machine
    machine.says("systemctl disable --now ssecast.socket ssecast-admin.socket ssecast.service 2>&1")
    life.install("older")
    same("state", life.property("ActiveState"), "inactive")
    same("enabled", machine.run("systemctl is-enabled ssecast.service", check=False).stdout.strip(), "disabled")


@step
def purge_leaves_nothing(life: Life) -> None:
    machine = life.machine
    machine.says("dpkg -P ssecast", seconds=60)
    same("files left", life.files() - life.files_before, set())
    same("files of the test's machine", life.files_before - life.files(), set())
    same("failed units", machine.says("systemctl --failed --no-legend"), "")
    same(
        "state left",
        machine.says("find / -xdev -name '*ssecast*' -not -path '/proc/*' -not -path '/srv/*' -not -path '/tmp/*'"),
        "",
    )


def main() -> int:
    packages, *words = sys.argv[1:]
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    begun = time.monotonic()
    try:
        with booted(image()) as machine:
            name = machine.says(". /etc/os-release; echo $PRETTY_NAME")
            print(f"a {name} with systemd is up after {time.monotonic() - begun:.1f} s", flush=True)
            return run(Life(machine, pathlib.Path(packages)), words)
    except CannotBoot as reason:
        print(f"SKIPPED: the package on a whole Debian: {reason}")
        if os.environ.get("CI") == "true":
            print("CI must run it.\n0 passed, 1 failed")
            return 1
        return 0


# Without these there is nothing that the others could test.
NEEDED = (install_starts_sockets_and_service, its_files_agree_with_the_program, nginx_and_redis_by_two_lines)


def run(life: Life, words: list[str]) -> int:
    passed = failed = skipped = 0
    begun = time.monotonic()
    for function in STEPS:
        if words and function not in NEEDED and not any(word in function.__name__ for word in words):
            continue
        name, started = function.__name__.replace("_", " "), time.monotonic()
        try:
            function(life)
        except Skipped as reason:
            skipped += 1
            print(f"SKIPPED: {name}: {reason}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED: {name}: {error}")
            if not isinstance(error, Failed):
                traceback.print_exc(file=sys.stdout)
            print("  " + life.log().replace("\n", "\n  "), flush=True)
            if function in NEEDED:
                break
        else:
            passed += 1
            print(f"ok: {name} ({time.monotonic() - started:.1f} s)", flush=True)
        finally:
            for stream in life.streams:
                stream.end()
            life.streams.clear()
    print(f"the package on a whole Debian, in {time.monotonic() - begun:.0f} s:")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
