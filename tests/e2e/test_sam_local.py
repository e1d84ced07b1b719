"""`make sam-local`: the template, built, in containers, with a Valkey beside it."""

import json
import os
import pathlib
import re
import subprocess
import unittest

from support import (EVENTS, MANAS, ROOT, Make, ask, environment, free_port, has_container_engine,
                     needs, status_of_event)

# Amazon Linux 2023, which provided.al2023 runs on, has the C library 2.34.
NEWEST_GLIBC = (2, 34)


def docker(*arguments):
    return subprocess.run(["docker", *arguments], check=True, capture_output=True,
                          text=True).stdout.strip()


@needs(has_container_engine(), "no container engine that answers to `docker`")
class SamLocal(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.before = docker("ps", "--all", "--quiet")
        cls.make = Make("sam-local", f"PORT={free_port()}")
        cls.addClassCleanup(cls.make.interrupt)
        cls.api = cls.make.wait_until_ready().removesuffix("/users/1")

    def valkey(self, *command):
        container = docker("ps", "--quiet", "--filter", "name=valkey")
        return docker("exec", container, "valkey-cli", *command)

    def test_requests_through_the_gateway(self):
        self.valkey("FLUSHALL")
        first = ask(f"{self.api}/users/1")
        self.assertEqual((first.status, first.body), (200, MANAS))
        self.assertEqual(first.cache_status, "response-boost; fwd=uri-miss; stored")
        second = ask(f"{self.api}/users/1")
        self.assertEqual(second.body, MANAS)
        self.assertRegex(second.cache_status, r"^response-boost; hit; ttl=1[12]\d$")
        self.assertEqual(self.valkey("KEYS", "*"), "users:user:1")
        self.assertIn(int(self.valkey("TTL", "users:user:1")), range(1, 121))

        self.assertEqual(ask(f"{self.api}/users/4").status, 404)
        self.assertEqual(ask(f"{self.api}/users/abc").status, 400)
        for path in ["orders", "users/1/orders", ""]:
            unrouted = ask(f"{self.api}/{path}")
            self.assertEqual(unrouted.status, 404)
            self.assertEqual(unrouted.headers["content-type"], "application/problem+json")
        forbidden = ask(f"{self.api}/users/1", "DELETE")
        self.assertEqual((forbidden.status, forbidden.headers["allow"]), (405, "GET, HEAD"))

    def test_each_event_by_sam_local_invoke(self):
        sam = ROOT / ".tools/sam/bin/sam"
        architecture = {"aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        for event in EVENTS:
            with self.subTest(event=event.name):
                invoked = subprocess.run(
                    [sam if sam.exists() else "sam", "local", "invoke", "UsersFunction",
                     "--event", event, "--skip-pull-image", "--docker-network", "response-boost",
                     "--parameter-overrides", f"Architecture={architecture}",
                     "RedisUrl=redis://valkey:6379"],
                    cwd=ROOT, env=environment(SAM_CLI_TELEMETRY="0"), capture_output=True, text=True)
                self.assertEqual(invoked.returncode, 0, invoked.stderr)
                reply = json.loads(invoked.stdout.splitlines()[-1])
                self.assertEqual(reply["statusCode"], status_of_event(event))
                headers = {**reply.get("headers", {}), **reply.get("multiValueHeaders", {})}
                reached_redis = "response-boost" in str(headers.get("cache-status"))
                self.assertEqual(reached_redis, reply["statusCode"] != 400)
                self.assertNotIn("bypass", str(headers))

    def test_the_function_suits_the_c_library_of_amazon_linux(self):
        program = pathlib.Path(ROOT, ".aws-sam/build/UsersFunction/bootstrap").read_bytes()
        asked = {tuple(map(int, version)) for version in
                 re.findall(rb"GLIBC_(\d+)\.(\d+)", program)}
        self.assertTrue(asked)
        self.assertLessEqual(max(asked), NEWEST_GLIBC)

    def test_zz_ctrl_c_removes_the_containers_and_the_network(self):
        # The last of these tests, by its name: unittest runs them in alphabetical order.
        self.assertEqual(self.make.interrupt(), [], "left running")
        self.assertEqual(docker("ps", "--all", "--quiet"), self.before)
        self.assertNotIn("response-boost", docker("network", "ls"))


if __name__ == "__main__":
    unittest.main()
