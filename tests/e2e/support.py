"""What the end-to-end tests share: they run the make targets as a person does."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Events of gateways, and events of a table's stream, which are for the other function.
STREAM_EVENTS = sorted((ROOT / "events").glob("stream-*.json"))
EVENTS = sorted(set((ROOT / "events").glob("*.json")) - set(STREAM_EVENTS))
MANAS = '{"id":1,"name":"Manas","email":"manas@example.com","age":25}'

# Paths as a client sends them, with their status behind every gateway.
PATHS = {
    "/users/1": 200, "/users/%31": 200, "/users/1?x=%3Cb%3E&x=2": 200,
    "/users/4": 404, "/users/9223372036854775807": 404, "/users/9223372036854775808": 400,
    "/users/0": 400, "/users/01": 400, "/users/+1": 400, "/users/abc": 400, "/users/": 400, "/users/..": 400,
    "/users/%2531": 400, "/users/%EF%BC%91": 400, "/users/%20": 400, "/users/%00": 400, "/users/%FF": 400,
    "/users/%zz": 400,
    "/users/1/": 404, "//users/1": 404, "/users//1": 404, "/users/1/orders": 404, "/orders/1": 404, "/Users/1": 404,
    "/users": 404, "/": 404,
}

# Longer than a first build takes on two cores.
PATIENCE_S = 900


def needs(condition, missing):
    """Skips a test class by name if something is missing; in CI that is a failure."""
    if condition:
        return lambda tests: tests
    if os.environ.get("CI"):
        raise RuntimeError(f"CI must not skip anything, but here is {missing}")
    return unittest.skip(missing)


def succeeds(*command):
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True).returncode == 0


def has_container_engine():
    return succeeds("docker", "info") and (succeeds("docker", "compose", "version")
                                           or succeeds("docker-compose", "version"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status_of_event(path):
    """The status that the name of an event file promises."""
    case = path.stem.rsplit("-", 1)[1]
    return {"existing": 200, "unknown": 404, "invalid": 400}[case]


def environment(**changes):
    """A clean environment: what a login sets, and nothing that configures the program."""
    kept = {"HOME", "PATH", "LANG", "TERM", "USER", "CARGO_HOME", "RUSTUP_HOME", "DOCKER_HOST"}
    # Variables that configure proxies, mirrors and certificates for package clients.
    told = re.compile(r"(?i).*(proxy|cert|ca_bundle|index_url|find_links).*|pip_.*|cargo_registries_.*|cargo_source_.*")
    clean = {name: value for name, value in os.environ.items() if name in kept or told.match(name)}
    return {**clean, **changes}


def ask_script(line, **variables):
    """Runs a line of shell with the functions of scripts/lib.sh."""
    return subprocess.run(["bash", "-c", f". scripts/lib.sh; {line}"], cwd=ROOT, env=environment(**variables),
                          capture_output=True, text=True)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def cache_status(self):
        return self.headers.get("cache-status", "")


def ask(url, method="GET", headers=None, body=None):
    request = urllib.request.Request(url, body and body.encode(), headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return Reply(reply.status, reply.headers, reply.read().decode())
    except urllib.error.HTTPError as reply:
        return Reply(reply.code, reply.headers, reply.read().decode())


class Paths:
    """For test cases: what holds behind every gateway."""

    def assert_paths(self, api, **changed):
        """Requests each path of the table. `changed` has the statuses that differ behind an emulator."""
        for path, status in {**PATHS, **changed}.items():
            with self.subTest(path=path):
                reply = ask(api + path)
                self.assertEqual(reply.status, status)
                if path not in changed:
                    self.assertIn(reply.headers["content-type"].split(";")[0],
                                  ["application/json"] if status == 200 else ["application/problem+json"])

    def assert_no_cors(self, api):
        """A preflight gets the function's 405, and no response has a CORS header."""
        preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
        for method, status in [("OPTIONS", 405), ("GET", 200)]:
            reply = ask(f"{api}/users/1", method, preflight)
            self.assertEqual(reply.status, status)
            self.assertFalse([name for name in reply.headers if name.lower().startswith("access-control-")])


class Make:
    """A make target that runs until it is interrupted, as by Ctrl-C in a terminal."""

    def __init__(self, target, *arguments, folder=ROOT, **variables):
        # All descendants inherit the mark, even those that leave the process group.
        self.mark = f"RESPONSE_BOOST_TEST={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            # A test run in the background ignores SIGINT, and bash would inherit that for good.
            [sys.executable, "-c", "import os, signal, sys\n"
             "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
             "os.execvp(sys.argv[1], sys.argv[1:])", "make", target, *arguments],
            # A busy machine is not a fault of Redis.
            cwd=folder, env=environment(**{name: value, "REDIS_CONNECT_TIMEOUT_MS": "10000",
                                           "REDIS_RESPONSE_TIMEOUT_MS": "10000"}, **variables), stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

    def output(self):
        if self.log.closed:
            return self.said
        # The writing processes share this descriptor, so its position must not change.
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")

    def wait_until_ready(self, line=r"^Ready. Try: curl -i (http://\S+)$"):
        """Waits for the line with this text, and returns the URL in it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            ready = re.search(line, self.output(), re.MULTILINE)
            if ready:
                return ready[1]
            time.sleep(0.05)
        raise AssertionError(f"not ready:\n{self.output()}")

    def wait(self, patience_s=PATIENCE_S):
        """Waits for its end and returns its exit code."""
        return self.process.wait(patience_s)

    def interrupt(self):
        """Sends Ctrl-C, and waits until everything has ended."""
        if self.log.closed:
            return []
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            left = self.left_running()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        self.said = self.output()
        self.log.close()
        return list(left.values())

    def left_running(self):
        """The remaining descendants, by pid. Empty without /proc."""
        left = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    left[int(folder.name)] = command
            except OSError:
                pass  # It has ended meanwhile, or is not ours.
        return left


def clean_copy():
    """The files of the checkout as in a clone, with its tools but without build results."""
    copy = pathlib.Path(tempfile.mkdtemp(prefix="response-boost-"))
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    # Without the target folder: in one that two workspaces share, cargo distinguishes packages only by their path in
    # the workspace, and would mix them up.
    (ROOT / ".tools").mkdir(exist_ok=True)
    (copy / ".tools").symlink_to(ROOT / ".tools")
    return copy


def path_without(*programs):
    """A PATH with all programs of this one except some. The caller removes the folder."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="response-boost-path-"))
    for place in os.environ["PATH"].split(os.pathsep):
        for program in pathlib.Path(place).glob("*"):
            link = folder / program.name
            if program.name not in programs and not link.is_symlink():
                link.symlink_to(program)
    return folder
