"""What `make deploy` and the targets around it do, as far as that can be seen without an account.

In the place of SAM stands a program that writes down what it is called with, and that has the outputs
of a stack; what SAM itself makes of the template is tested in tests/template.
"""

import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

from support import ROOT, Make, clean_copy, environment, free_port

BUILT = ["UsersFunction", "InvalidateFunction"]
SAM = r"""#!/usr/bin/env python3
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["SAM_CALLS"])
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\n")
if sys.argv[1] == "build":
    for name in ["UsersFunction", "InvalidateFunction"]:
        built = pathlib.Path(".aws-sam/build", name)
        built.mkdir(parents=True, exist_ok=True)
        (built / "bootstrap").write_text((folder / "program").read_text())
if sys.argv[1:3] == ["list", "stack-outputs"]:
    print((folder / "outputs").read_text())
"""


class Scripts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.copy = clean_copy()
        cls.addClassCleanup(shutil.rmtree, cls.copy)
        # With the real SAM, which the scripts would take before any other.
        (cls.copy / ".tools").unlink()
        # That there is a linker for another processor does not matter here, nor that there is a library.
        cls.sysroot = pathlib.Path(tempfile.mkdtemp(prefix="response-boost-"))
        cls.addClassCleanup(shutil.rmtree, cls.sysroot)

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="response-boost-"))
        self.addCleanup(shutil.rmtree, self.folder)
        for name, text in [
            ("sam", SAM), ("cfn-lint", "#!/bin/sh\n"), ("zig", "#!/bin/sh\n"), ("cargo-lambda", "#!/bin/sh\n"),
            # As if Rust could build for both.
            ("rustc", f"#!/bin/sh\necho '{self.sysroot}'\n"),
        ]:
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]:
            (self.sysroot / "lib/rustlib" / target).mkdir(parents=True, exist_ok=True)
        (self.folder / "program").write_text("one program")
        self.outputs(ApiUrl="https://abc.execute-api.eu-west-1.amazonaws.com", ApiAuthorization="NONE")

    def outputs(self, **values):
        outputs = [{"OutputKey": name, "OutputValue": value} for name, value in values.items()]
        (self.folder / "outputs").write_text(json.dumps(outputs))

    def make(self, target, *arguments, said="", **variables):
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(["make", target, *arguments], cwd=self.copy, input=said, text=True, capture_output=True,
                              env=environment(**{"PATH": path, "SAM_CALLS": str(self.folder), **variables}))

    def calls(self):
        """What SAM was called with since the last time."""
        path = self.folder / "calls"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return calls

    def deployed(self, *arguments):
        """Deploys, and gives the parameters that it was done with."""
        made = self.make("deploy", *arguments)
        self.assertEqual(made.returncode, 0, made.stderr)
        build, deploy, _ = self.calls()
        self.assertEqual((build[0], deploy[0]), ("build", "deploy"))
        place = deploy.index("--parameter-overrides")
        self.assertEqual(deploy[1:place], ["--config-env", *self.config(arguments), "--no-confirm-changeset"])
        return build, dict(parameter.split("=", 1) for parameter in deploy[place + 1:])

    @staticmethod
    def config(arguments):
        return [argument.split("=")[1] for argument in arguments if argument.startswith("CONFIG=")] or ["default"]

    def test_a_first_deployment_answers_a_plain_curl(self):
        build, parameters = self.deployed()
        self.assertEqual(build, ["build", "--parameter-overrides", "Architecture=arm64"])
        self.assertEqual(parameters["UserStore"], "embedded")
        self.assertEqual(parameters["ApiAuthorization"], "NONE")
        self.assertEqual(parameters["InvalidationMaxAgeSeconds"], "120")
        made = self.make("deploy")
        self.assertIn("curl -i https://abc.execute-api.eu-west-1.amazonaws.com/users/1", made.stderr)

    def test_what_is_built_is_what_the_configuration_names(self):
        configuration = self.copy / "samconfig.toml"
        before = configuration.read_text()
        self.addCleanup(configuration.write_text, before)
        configuration.write_text(before.replace('"UserStore=embedded",', '"UserStore=embedded", "Architecture=x86_64",'))
        build, parameters = self.deployed()
        self.assertEqual(build, ["build", "--parameter-overrides", "Architecture=x86_64"])
        self.assertEqual(parameters["Architecture"], "x86_64")

    def test_production_has_a_table_signed_requests_and_somebody_who_is_told(self):
        refused = self.make("deploy", "CONFIG=prod")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("AlarmEmail is still the one of the example", refused.stderr)
        self.calls()
        _, parameters = self.deployed("CONFIG=prod", "PARAMETERS=AlarmEmail=oncall@example.org")
        self.assertEqual(parameters["UserStore"], "dynamodb")
        self.assertEqual(parameters["ApiAuthorization"], "AWS_IAM")
        self.assertEqual(parameters["AlarmEmail"], "oncall@example.org")

    def test_a_release_is_another_when_a_program_or_a_parameter_is(self):
        releases = [self.deployed()[1]["ReleaseId"]]
        self.assertEqual(self.deployed()[1]["ReleaseId"], releases[0], "nothing has changed")
        releases.append(self.deployed("PARAMETERS=CacheTtlSeconds=60")[1]["ReleaseId"])
        releases.append(self.deployed("PARAMETERS=Architecture=x86_64")[1]["ReleaseId"])
        (self.folder / "program").write_text("another program")
        releases.append(self.deployed()[1]["ReleaseId"])
        template = self.copy / "template.yaml"
        before = template.read_text()
        self.addCleanup(template.write_text, before)
        template.write_text(before.replace("MemorySize: 256", "MemorySize: 512") + "\n")
        releases.append(self.deployed()[1]["ReleaseId"])
        self.assertEqual(len(set(releases)), 5, releases)

    def test_invalidating_is_tried_for_as_long_as_an_entry_may_live(self):
        for given, age in [("CacheTtlSeconds=300 CacheStaleIfErrorSeconds=600", "900"), ("CacheTtlSeconds=5", "60"),
                           ("CacheTtlSeconds=31536000", "604800"), ("InvalidationMaxAgeSeconds=77", "77")]:
            self.assertEqual(self.deployed(f"PARAMETERS={given}")[1]["InvalidationMaxAgeSeconds"], age)

    def test_what_cannot_be_is_said(self):
        for arguments, said in [(["CONFIG=test"], "CONFIG is test; samconfig.toml has: default, prod"),
                                (["PARAMETERS=Ttl=5"], "PARAMETERS has Ttl=5; accepted: Name=Value with a Name out of"),
                                (["PARAMETERS=CacheTtlSeconds"], "PARAMETERS has CacheTtlSeconds; accepted"),
                                (["PARAMETERS=CacheTtlSeconds=2m"], "CacheTtlSeconds is 2m; accepted: a whole number"),
                                (["PARAMETERS=Architecture=arm"], "the architecture is arm; accepted: x86_64, arm64")]:
            refused = self.make("deploy", *arguments)
            self.assertNotEqual(refused.returncode, 0, arguments)
            self.assertIn(said, refused.stderr)
            self.assertNotIn("deploy", [call[0] for call in self.calls()])

    def test_url_and_logs_are_those_of_the_stack(self):
        url = self.make("url", "CONFIG=prod")
        self.assertEqual(url.stdout, "https://abc.execute-api.eu-west-1.amazonaws.com\n")
        self.assertEqual(self.calls(), [["list", "stack-outputs", "--config-env", "prod", "--output", "json"]])
        self.make("logs", "STACK=Mine")
        self.assertEqual(self.calls(), [["logs", "--config-env", "default", "--stack-name", "Mine", "--tail"]])

    def test_a_stack_is_deleted_only_by_somebody_who_has_read_what_that_means(self):
        self.outputs(UsersTable="users-table-1")
        for said in ["", "yes\n", "y\n"]:
            kept = self.make("destroy", said=said)
            self.assertNotEqual(kept.returncode, 0)
            self.assertIn("nothing was deleted", kept.stderr)
            self.assertNotIn("delete", [call[0] for call in self.calls()])
        deleted = self.make("destroy", "CONFIG=prod", said="destroy\n")
        self.assertEqual(deleted.returncode, 0, deleted.stderr)
        self.assertIn("keeps the table users-table-1", deleted.stderr)
        self.assertIn("up to forty", deleted.stderr)
        self.assertEqual(self.calls()[-1], ["delete", "--config-env", "prod", "--no-prompts"])

    def test_seed_needs_a_table(self):
        refused = self.make("seed")
        self.assertIn("TABLE is not set", refused.stderr)
        refused = self.make("seed", "CONFIG=default")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("the stack of CONFIG=default has no table", refused.stderr)


class Smoke(unittest.TestCase):
    def smoke(self, url, **variables):
        smoked = subprocess.run(["make", "smoke", f"URL={url}"], cwd=ROOT, capture_output=True, text=True,
                                env=environment(**variables))
        return smoked.returncode, smoked.stdout + smoked.stderr

    def test_what_is_as_it_should_be_passes_and_what_is_not_does_not(self):
        make = Make("run", f"PORT={free_port()}", CACHE_TTL_SECONDS="3")
        self.addCleanup(make.interrupt)
        api = make.wait_until_ready().removesuffix("/users/1")
        # The second time the user is kept already, and its end is waited for.
        for _ in range(2):
            code, said = self.smoke(api)
            self.assertEqual(code, 0, said)
            for case in ["miss: 200", "hit: 200", "304: 304", "404: 404", "405: 405", "all as it should be"]:
                self.assertIn(case, said)
        make.interrupt()

        code, said = self.smoke(api)
        self.assertNotEqual(code, 0)
        self.assertIn(api, said)

    def test_a_server_that_answers_otherwise_is_found_out(self):
        url, _ = self.serve(200, {"etag": '"x"'}, b"{}")
        code, said = self.smoke(url)
        self.assertNotEqual(code, 0)
        self.assertIn("error: miss: expected a Cache-Status like fwd=uri-miss; stored", said)

    def test_requests_are_signed_for_the_gateway_and_carry_a_token(self):
        keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1",
                "AWS_DEFAULT_REGION": "eu-west-1"}
        url, seen = self.serve(403, {}, b'{"message":"Forbidden"}')
        code, said = self.smoke(url, AUTHORIZATION="AWS_IAM", **keys)
        self.assertNotEqual(code, 0)
        self.assertIn('miss: expected 200, got 403: {"message":"Forbidden"}', said)
        self.assertRegex(seen[-1], r"^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/eu-west-1/execute-api/aws4_request, "
                                   r"SignedHeaders=host;x-amz-date, Signature=[0-9a-f]{64}$")
        self.smoke(url, AUTHORIZATION="JWT", TOKEN="a.b.c")
        self.assertEqual(seen[-1], "Bearer a.b.c")
        self.assertIn("TOKEN is not set", self.smoke(url, AUTHORIZATION="JWT")[1])

    def serve(self, status, headers, body):
        """A server that always answers the same; and the Authorization of what it was asked."""
        seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append(self.headers["authorization"])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}", seen


if __name__ == "__main__":
    unittest.main()
