"""`make sam-local`: the built template in containers, with a Valkey beside it."""

import json
import os
import subprocess
import unittest

from support import (EVENTS, MANAS, ROOT, STREAM_EVENTS, Make, Paths, ask, environment, free_port,
                     has_container_engine, needs, status_of_event)


def docker(*arguments):
    return subprocess.run(["docker", *arguments], check=True, capture_output=True,
                          text=True).stdout.strip()


@needs(has_container_engine(), "no container engine with compose that answers to `docker`")
class SamLocal(Paths, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.before = set(docker("ps", "--all", "--quiet").split())
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

        # Its web server merges two leading slashes into one.
        self.assert_paths(self.api, **{"//users/1": 200})
        self.assert_no_cors(self.api)
        forbidden = ask(f"{self.api}/users/1", "DELETE")
        self.assertEqual((forbidden.status, forbidden.headers["allow"]), (405, "GET, HEAD"))

    def invoke(self, function, event):
        """The function's response to the event in a file."""
        sam = ROOT / ".tools/bin/sam"
        architecture = {"aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        invoked = subprocess.run(
            [sam if sam.exists() else "sam", "local", "invoke", function,
             "--event", event, "--skip-pull-image", "--docker-network", "response-boost",
             "--parameter-overrides", f"Architecture={architecture}", "CacheMode=existing",
             "RedisUrl=redis://valkey:6379"],
            cwd=ROOT, env=environment(SAM_CLI_TELEMETRY="0"), capture_output=True, text=True)
        self.assertEqual(invoked.returncode, 0, invoked.stderr)
        return json.loads(invoked.stdout.splitlines()[-1])

    def test_each_event_by_sam_local_invoke(self):
        for event in EVENTS:
            with self.subTest(event=event.name):
                reply = self.invoke("UsersFunction", event)
                self.assertEqual(reply["statusCode"], status_of_event(event))
                headers = {**reply.get("headers", {}), **reply.get("multiValueHeaders", {})}
                reached_redis = "response-boost" in str(headers.get("cache-status"))
                self.assertEqual(reached_redis, reply["statusCode"] != 400)
                self.assertNotIn("bypass", str(headers))

    def test_each_event_of_a_stream_by_sam_local_invoke(self):
        self.assertGreaterEqual(len(STREAM_EVENTS), 2)
        for event in STREAM_EVENTS:
            with self.subTest(event=event.name):
                changed = {f"users:user:{record['dynamodb']['Keys']['id']['N']}"
                           for record in json.loads(event.read_text())["Records"]
                           if "id" in record["dynamodb"]["Keys"]}
                for key in [*changed, "users:user:9"]:
                    self.valkey("SET", key, "kept", "EX", "60")
                self.assertEqual(self.invoke("InvalidateFunction", event), {"batchItemFailures": []})
                left = set(self.valkey("KEYS", "*").split())
                self.assertFalse(left & changed)
                self.assertIn("users:user:9", left)

    def test_zz_ctrl_c_removes_the_containers_and_the_network(self):
        # The last of these tests by its name: unittest runs them in alphabetical order.
        self.assertEqual(self.make.interrupt(), [], "left running")
        self.assertEqual(set(docker("ps", "--all", "--quiet").split()) - self.before, set())
        self.assertNotIn("response-boost", docker("network", "ls"))


@needs(has_container_engine(), "no container engine with compose that answers to `docker`")
class SamLocalSigned(unittest.TestCase):
    """The same template with routes for signed requests. SAM does not check the signature."""

    def test_the_smoke_test_passes(self):
        make = Make("sam-local", f"PORT={free_port()}", "AUTHORIZATION=AWS_IAM")
        self.addCleanup(make.interrupt)
        api = make.wait_until_ready().removesuffix("/users/1")
        keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-west-1"}
        smoked = subprocess.run(["make", "smoke", f"URL={api}", "AUTHORIZATION=AWS_IAM"], cwd=ROOT, text=True,
                                env=environment(**keys), capture_output=True)
        self.assertEqual(smoked.returncode, 0, smoked.stdout + smoked.stderr)
        self.assertIn("everything as expected", smoked.stdout)

    def test_another_authorization_is_refused(self):
        make = Make("sam-local", "AUTHORIZATION=JWT")
        self.addCleanup(make.interrupt)
        self.assertNotEqual(make.wait(), 0)
        self.assertIn("AUTHORIZATION is JWT; accepted: NONE or AWS_IAM", make.output())


if __name__ == "__main__":
    unittest.main()
