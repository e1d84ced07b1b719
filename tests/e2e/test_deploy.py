"""What `make deploy` and the related targets do, as far as a test without an account can see it.

SAM is real; AWS is the small one of cloud.py. tests/template tests what SAM itself makes of the template.
"""

import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

from support import ROOT, Make, ask_script, clean_copy, environment, free_port
from cloud import BUCKET, Cloud, Stack
from parameters import defaults, parameters, release_id

FUNCTIONS = ["UsersFunction", "InvalidateFunction", "ReleaseCheckFunction"]
# The real SAM, except for the build, which takes minutes: this one creates one file for each function, and a template
# that names them.
SAM = r"""#!/usr/bin/env python3
import json, os, pathlib, re, shutil, sys
folder = pathlib.Path(os.environ["SAM_CALLS"])
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\n")
if sys.argv[1] != "build":
    os.environ["PYTHONPATH"] = "%(modules)s"
    os.execvp(sys.executable, [sys.executable, "%(sam)s", *sys.argv[1:]])
build = pathlib.Path(".aws-sam/build")
template = pathlib.Path("template.yaml").read_text()
for name in %(functions)s:
    (build / name).mkdir(parents=True, exist_ok=True)
    program = folder / name
    (build / name / "bootstrap").write_text((program if program.exists() else folder / "program").read_text())
    template = re.sub(rf"(^  {name}:\n(?:    .*\n)*?    Properties:\n)", rf"\1      CodeUri: {name}\n", template, flags=re.M)
(build / "template.yaml").write_text(template)
shutil.copy("dashboard.yaml", build)
"""


class Harness(unittest.TestCase):
    """The scripts and the real SAM, against a small AWS."""

    @classmethod
    def setUpClass(cls):
        cls.copy = clean_copy()
        cls.addClassCleanup(shutil.rmtree, cls.copy)
        # These tests do not need a linker or a library for another processor.
        cls.sysroot = pathlib.Path(tempfile.mkdtemp(prefix="response-boost-"))
        cls.addClassCleanup(shutil.rmtree, cls.sysroot)
        # Its real path, because the scripts would find it before the tests' wrapper.
        asked = ask_script('ensure_sam; command -v sam')
        cls.modules = ROOT / ".tools/sam"
        cls.sam = cls.modules / "bin/sam" if (cls.modules / "bin/sam").exists() else asked.stdout.strip()
        ask_script("ensure_botocore")
        ask_script("ensure_awscli")
        # The tools of the checkout, without SAM's wrapper.
        (cls.copy / ".tools").unlink()
        (cls.copy / ".tools").mkdir()
        for tool in (ROOT / ".tools").iterdir():
            if tool.name != "bin":
                (cls.copy / ".tools" / tool.name).symlink_to(tool)

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="response-boost-"))
        self.addCleanup(shutil.rmtree, self.folder)
        sam = SAM % {"modules": self.modules, "sam": self.sam, "functions": FUNCTIONS}
        for name, text in [
            ("sam", sam), ("cfn-lint", "#!/bin/sh\n"), ("zig", "#!/bin/sh\n"), ("cargo-lambda", "#!/bin/sh\n"),
            # Pretends that Rust can build for both.
            ("rustc", f"#!/bin/sh\necho '{self.sysroot}'\n"),
        ]:
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]:
            (self.sysroot / "lib/rustlib" / target).mkdir(parents=True, exist_ok=True)
        (self.folder / "program").write_text("one program")
        self.cloud = Cloud()
        self.addCleanup(self.cloud.close)

    def variables(self, **variables):
        return environment(**{
            "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}", "SAM_CALLS": str(self.folder),
            "AWS_ENDPOINT_URL": self.cloud.url, "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret", "HOME": str(self.folder), "SAM_CLI_TELEMETRY": "0",
            # How often SAM polls the progress, in seconds.
            "SAM_CLI_POLL_DELAY": "0.1", **variables})

    def make(self, target, *arguments, said="", **variables):
        return subprocess.run(["make", target, *arguments], cwd=self.copy, input=said, text=True, capture_output=True,
                              env=self.variables(**variables))

    def made(self, *arguments, **variables):
        """Runs a target and returns its output."""
        made = self.make(*arguments, **variables)
        self.assertEqual(made.returncode, 0, made.stdout + made.stderr)
        return made.stdout + made.stderr

    def refused(self, *arguments, **variables):
        made = self.make(*arguments, **variables)
        self.assertNotEqual(made.returncode, 0, made.stdout + made.stderr)
        return made.stdout + made.stderr

    def calls(self):
        """The calls of SAM since the last time."""
        path = self.folder / "calls"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return calls

    def deployed(self, *arguments, stack="response-boost"):
        """Deploys, and returns the parameters of the stack."""
        self.made("deploy", *arguments)
        return dict(self.cloud.stacks[stack].parameters)

    def stands(self, *given, config="default", name="response-boost"):
        """A stack as after a deployment, with the program that the tests build. A deployment takes seconds."""
        template = (ROOT / "template.yaml").read_text()
        values = parameters(config, "-", given)
        values["ReleaseId"] = release_id(template, values, b"one program", "")
        template = template.replace("CodeUri: .\n", f"CodeUri: s3://{BUCKET}/{name}/program\n").replace(
            "TemplateURL: dashboard.yaml", f"TemplateURL: https://s3.eu-west-1.amazonaws.com/{BUCKET}/{name}/dashboard")
        stack = self.cloud.stacks[name] = Stack(name, template, values)
        stack.event(name, "AWS::CloudFormation::Stack", stack.status)
        return stack


class Scripts(Harness):
    def test_a_first_deployment_answers_a_plain_curl(self):
        said = self.made("deploy")
        self.assertIn("curl -i https://response-boost.execute-api.eu-west-1.amazonaws.com/users/1", said)
        build, deploy = self.calls()
        self.assertEqual(build, ["build", "--parameter-overrides", "Architecture=arm64"])
        self.assertEqual(deploy[:4], ["deploy", "--config-env", "default", "--no-confirm-changeset"])
        parameters = self.cloud.stacks["response-boost"].parameters
        self.assertEqual((parameters["UserStore"], parameters["ApiAuthorization"]), ("embedded", "NONE"))
        self.assertEqual((parameters["ApiRequestsPerSecond"], parameters["ApiBurst"]), ("20", "40"))
        self.assertEqual(parameters["InvalidationMaxAgeSeconds"], "120")

    def test_what_is_built_is_what_the_configuration_names(self):
        configuration = self.copy / "samconfig.toml"
        before = configuration.read_text()
        self.addCleanup(configuration.write_text, before)
        configuration.write_text(before.replace('"UserStore=embedded",', '"UserStore=embedded", "Architecture=x86_64",'))
        self.assertEqual(self.deployed()["Architecture"], "x86_64")
        self.assertEqual(self.calls()[0], ["build", "--parameter-overrides", "Architecture=x86_64"])

    def test_production_has_a_table_signed_requests_and_somebody_who_gets_the_alarms(self):
        self.assertIn("AlarmEmail is still the one of the example", self.refused("deploy", "CONFIG=prod"))
        parameters = self.deployed("CONFIG=prod", "PARAMETERS=AlarmEmail=oncall@example.org", stack="response-boost-prod")
        self.assertEqual((parameters["UserStore"], parameters["ApiAuthorization"]), ("dynamodb", "AWS_IAM"))
        self.assertEqual(parameters["AlarmEmail"], "oncall@example.org")
        self.assertEqual((parameters["CacheStaleIfErrorSeconds"], parameters["ReservedConcurrency"]), ("600", "100"))
        self.assertEqual(parameters["InvalidationMaxAgeSeconds"], "720")

    def test_a_parameter_that_was_set_once_and_dropped_is_the_default_again(self):
        self.stands("CacheTtlSeconds=60", "LogFilter=debug")
        parameters = self.deployed()
        self.assertEqual((parameters["CacheTtlSeconds"], parameters["LogFilter"]), ("120", ""))
        self.assertEqual(parameters.keys(), defaults((ROOT / "template.yaml").read_text()).keys())

    def test_an_empty_value_is_one(self):
        configuration = self.copy / "samconfig.toml"
        before = configuration.read_text()
        self.addCleanup(configuration.write_text, before)
        configuration.write_text(before.replace('"UserStore=embedded",', '"UserStore=embedded", "LogFilter=debug",'))
        self.assertEqual(self.deployed("PARAMETERS=LogFilter= CacheTtlSeconds=60")["LogFilter"], "")

    def test_a_changed_ttl_is_a_release_and_a_changed_limit_of_the_table_is_none(self):
        stack = self.stands()
        self.deployed("PARAMETERS=TableMaxReadsPerSecond=5")
        self.assertEqual((stack.live, stack.parameters["TableMaxReadsPerSecond"]), ("1", "5"))
        self.deployed("PARAMETERS=CacheTtlSeconds=60")
        self.assertEqual((stack.live, stack.parameters["TableMaxReadsPerSecond"]), ("2", "1000"))

    def test_a_release_is_another_when_what_reaches_the_function_is(self):
        build = self.folder / "build"
        for function in FUNCTIONS:
            (build / function).mkdir(parents=True)
            (build / function / "bootstrap").write_text("one program")
        def release(*given, **variables):
            asked = subprocess.run([sys.executable, "scripts/parameters.py", "default", build, "-", *given], cwd=self.copy,
                                   env=self.variables(**variables), check=True, capture_output=True, text=True)
            return re.search(r"^ReleaseId=(.*)$", asked.stdout, re.MULTILINE)[1]
        releases = [release()]
        limits = ["CacheMaxEcpuPerSecond=2000", "ApiBurst=7", "DeploymentAlarms=false", "ReservedConcurrency=5"]
        self.assertEqual(release(*limits), releases[0])
        for function in ["InvalidateFunction", "ReleaseCheckFunction"]:
            (build / function / "bootstrap").write_text("another program, which has no alias")
        self.assertEqual(release(), releases[0])
        for given in ["CacheTtlSeconds=60", "Architecture=x86_64", "MemorySize=512", "CacheMode=none"]:
            releases.append(release(given))
        releases.append(release(NONCE="again"))
        (build / "UsersFunction/bootstrap").write_text("another program")
        releases.append(release())
        template = self.copy / "template.yaml"
        before = template.read_text()
        self.addCleanup(template.write_text, before)
        template.write_text(before.replace("      Timeout: 10\n", "      Timeout: 11\n"))
        releases.append(release())
        self.assertEqual(len(set(releases)), 8, releases)
        self.assertEqual(release("ReleaseId=mine"), "mine")

    def test_invalidating_is_tried_for_as_long_as_an_entry_may_live(self):
        for given, age in [("CacheTtlSeconds=300 CacheStaleIfErrorSeconds=600", "900"), ("CacheTtlSeconds=5", "60"),
                           ("CacheStaleWhileRevalidateSeconds=3600", "3720"),
                           ("CacheTtlSeconds=31536000", "604800"), ("InvalidationMaxAgeSeconds=77", "77")]:
            asked = subprocess.run([sys.executable, "scripts/parameters.py", "default", "-", "-", *given.split()],
                                   cwd=self.copy, capture_output=True, text=True)
            self.assertIn(f"InvalidationMaxAgeSeconds={age}\n", asked.stdout)

    def test_what_cannot_be_is_said(self):
        for arguments, said in [(["CONFIG=test"], "CONFIG is test; samconfig.toml has: default, prod"),
                                (["PARAMETERS=Ttl=5"], "PARAMETERS has Ttl=5; accepted: Name=Value with a Name out of"),
                                (["PARAMETERS=CacheTtlSeconds"], "PARAMETERS has CacheTtlSeconds; accepted"),
                                (["PARAMETERS=CacheTtlSeconds=2m"], "CacheTtlSeconds is 2m; accepted: a whole number"),
                                (["PARAMETERS=Architecture=arm"], "the architecture is arm; accepted: x86_64, arm64")]:
            self.assertIn(said, self.refused("deploy", *arguments))
            self.assertEqual(self.calls(), [])

    def test_a_cure_gets_through_while_an_alarm_rings(self):
        self.stands()
        self.cloud.alarm = True
        stack = self.cloud.stacks["response-boost"]
        self.refused("deploy", "PARAMETERS=CacheTtlSeconds=60")
        self.assertEqual((stack.status, stack.live), ("UPDATE_ROLLBACK_COMPLETE", "1"))
        self.deployed("PARAMETERS=CacheTtlSeconds=60 DeploymentAlarms=false")
        self.assertEqual((stack.status, stack.live), ("UPDATE_COMPLETE", "3"))

    def test_a_release_is_rolled_back_by_hand_and_the_next_one_goes_live(self):
        stack = self.stands("CacheTtlSeconds=60")
        stack.release(MemorySize="512")
        self.assertIn("version 1; before it was 2", self.made("rollback"))
        self.assertEqual(stack.live, "1")
        # Even a version that was rolled back can be deployed again, without CodeDeploy, which would refuse.
        said = self.made("deploy", "PARAMETERS=CacheTtlSeconds=60")
        self.assertIn("The alias was moved by hand", said)
        self.assertEqual((stack.live, stack.parameters["DeploymentByCodeDeploy"]), ("3", "false"))
        self.deployed()
        self.assertEqual((stack.live, stack.parameters["DeploymentByCodeDeploy"]), ("4", "true"))
        self.made("rollback", "VERSION=2")
        self.assertEqual(stack.live, "2")
        self.assertIn("VERSION is 9; response-boost-UsersFunction has: 1, 2, 3, 4", self.refused("rollback", "VERSION=9"))

    def test_a_rollback_passes_over_the_versions_that_turned_the_cache_off_and_on(self):
        stack = self.stands()
        self.deployed("PARAMETERS=CacheTtlSeconds=60")
        self.made("cache-off")
        self.made("cache-on")
        self.assertEqual(stack.live, "4")
        self.assertIn("version 1; before it was 4", self.made("rollback"))
        self.assertEqual(stack.live, "1")

    def test_a_rollback_passes_over_the_same_release_that_was_deployed_twice(self):
        stack = self.stands()
        self.deployed("PARAMETERS=CacheTtlSeconds=60")
        self.made("cache-off")
        # A deployment turns the cache on again.
        self.deployed("PARAMETERS=CacheTtlSeconds=60")
        self.deployed("PARAMETERS=CacheTtlSeconds=60", "NONCE=2")
        self.assertEqual(stack.live, "5")
        self.assertIn("version 1; before it was 5", self.made("rollback"))

    def test_a_rollback_never_goes_to_a_version_that_failed(self):
        stack = self.stands()
        self.cloud.alarm = True
        self.refused("deploy", "PARAMETERS=CacheTtlSeconds=60")
        self.cloud.alarm = False
        self.deployed("PARAMETERS=CacheTtlSeconds=30")
        # A limit of the table makes no release, and does not change what was live before.
        self.deployed("PARAMETERS=CacheTtlSeconds=30 TableMaxReadsPerSecond=5")
        self.assertEqual((stack.live, list(stack.versions), stack.parameters["PreviousVersion"]), ("3", ["1", "2", "3"], "1"))
        self.assertIn("version 1; before it was 3", self.made("rollback"))

    def test_a_second_rollback_goes_one_release_further(self):
        stack = self.stands()
        stack.release(MemorySize="512")
        stack.release(MemorySize="1024")
        for version in ["2", "1"]:
            self.made("rollback")
            self.assertEqual(stack.live, version)
        self.deployed()
        self.assertIn("version 1; before it was 4", self.made("rollback"))

    def test_a_rollback_to_nothing_is_refused(self):
        stack = self.stands()
        said = self.refused("rollback")
        self.assertIn("nothing to roll back to: version 1 is live, and no other release was live before it\n", said)
        self.assertNotIn("VERSION", said)
        stack.release(MemorySize="512")
        stack.release(MemorySize="1024")
        del stack.versions["2"]
        said = self.refused("rollback")
        self.assertIn("nothing to roll back to: version 3 is live, and version 2, which was live before, is deleted", said)
        self.assertIn("To choose one by hand, out of 1, 3: make rollback VERSION=…\n", said)
        self.assertEqual(stack.live, "3")

    def test_a_rollback_stops_a_deployment_that_is_under_way(self):
        self.stands().weights = {"2": 0.1}
        self.cloud.running = ["d-1"]
        self.assertIn("Stopped the deployment", self.made("rollback"))
        self.assertEqual(self.cloud.calls, [("codedeploy", "StopDeployment", {"deploymentId": "d-1", "autoRollbackEnabled": True})])

    def test_the_cache_is_turned_off_and_on_without_a_build(self):
        stack = self.stands()
        self.cloud.alarm = True
        releases = {stack.parameters["ReleaseId"]}
        for target, enabled, live in [("cache-off", "false", "2"), ("cache-on", "true", "3"), ("cache-off", "false", "4")]:
            self.assertIn("The next make deploy sets it again", self.made(target))
            self.assertEqual((stack.parameters["CacheEnabled"], stack.live), (enabled, live))
            releases.add(stack.parameters["ReleaseId"])
        self.assertEqual((len(releases), self.calls()), (4, []))
        self.assertEqual(stack.parameters["CacheTtlSeconds"], "120")
        self.cloud.alarm = False
        self.assertIn("CacheEnabled changes from false to true", self.made("deploy"))
        self.assertEqual(stack.live, "5")

    def test_turning_the_cache_off_does_not_bring_back_a_release_that_was_rolled_back(self):
        stack = self.stands()
        stack.release()
        stack.live = "1"
        for target, enabled in [("cache-off", "false"), ("cache-on", "true")]:
            said = self.refused(target)
            self.assertIn("send all requests to the release of version 2 again", said)
            self.assertIn(f"  make deploy PARAMETERS='CacheEnabled={enabled}'", said)
        self.assertEqual((stack.live, stack.parameters["CacheEnabled"]), ("1", "true"))

    def test_an_api_that_was_closed_is_opened_only_by_name(self):
        stack = self.stands("ApiAuthorization=AWS_IAM")
        said = self.refused("deploy")
        self.assertIn("let anybody call the API of response-boost, which now demands AWS_IAM", said)
        self.assertIn("  make deploy PARAMETERS='ApiAuthorization=NONE'", said)
        self.assertEqual((stack.parameters["ApiAuthorization"], self.calls()), ("AWS_IAM", []))
        self.assertEqual(self.deployed("PARAMETERS=ApiAuthorization=NONE")["ApiAuthorization"], "NONE")

    def test_a_first_deployment_that_failed_has_a_way_out(self):
        self.cloud.fails = True
        self.refused("deploy")
        self.cloud.fails = False
        stack = self.cloud.stacks["response-boost"]
        stack.extra_resources = [("UsersTable", "AWS::DynamoDB::Table", "users-1")]
        said = self.refused("deploy")
        for line in ["(ROLLBACK_COMPLETE), and such a stack can only be deleted", "not in a zone that has serverless caches",
                     "  make destroy\n  make deploy\n", "aws dynamodb delete-table --table-name users-1"]:
            self.assertIn(line, said)
        self.assertNotIn("cancelled", said)
        self.made("destroy", said="destroy\n")
        self.assertEqual(self.cloud.stacks, {})

    def test_a_way_back_that_failed_has_a_way_out(self):
        stack = self.stands()
        stack.event(stack.name, "AWS::CloudFormation::Stack", "UPDATE_IN_PROGRESS")
        stack.event("Cache", "AWS::ElastiCache::ServerlessCache", "UPDATE_FAILED", reason="it is being modified")
        stack.status = "UPDATE_ROLLBACK_FAILED"
        said = self.refused("deploy")
        for line in ["it is being modified", "aws cloudformation continue-update-rollback --stack-name response-boost\n",
                     "--resources-to-skip Cache"]:
            self.assertIn(line, said)
        stack.status = "UPDATE_IN_PROGRESS"
        self.assertIn("another operation on response-boost is under way", self.refused("deploy"))

    def test_a_zone_is_fixed_when_the_stack_is_created(self):
        self.stands()
        said = self.refused("deploy", "PARAMETERS=FirstZoneId=euw1-az2")
        self.assertIn("FirstZoneId is fixed when the stack is created", said)

    def test_what_is_left_of_a_network_is_said_and_how_to_delete_it(self):
        stack = self.stands()
        self.assertIn("hold network interfaces", self.made("deploy", "PARAMETERS=CacheMode=none"))
        for _, kind, name in [("FirstSubnet", "AWS::EC2::Subnet", "subnet-1"), ("FunctionSecurityGroup", "AWS::EC2::SecurityGroup", "sg-1")]:
            stack.event(kind, kind, "DELETE_FAILED", name, "has dependencies and cannot be deleted")
        asked = subprocess.run(["bash", "-c", ". scripts/lib.sh; . scripts/stack.sh; deployed left"], cwd=self.copy,
                               env=self.variables(), capture_output=True, text=True)
        self.assertRegex(asked.stderr, r"(?s)make prune\n.*delete-security-group --group-id sg-1\n.*delete-subnet --subnet-id subnet-1")
        self.assertIn("Deleted 1 versions", self.made("prune"))
        self.assertEqual([call[1] for call in self.cloud.calls], ["DELETE /2015-03-31/functions/response-boost-UsersFunction"])

    def test_two_stacks_of_one_build_and_one_is_deleted(self):
        self.deployed()
        self.deployed("STACK=second", stack="second")
        zips = lambda: {re.search(r"CodeUri: s3://[^/]+/(\S+)", self.cloud.stacks[name].template)[1] for name in self.cloud.stacks}
        self.assertEqual(len(zips()), 2)
        self.made("destroy", said="destroy\n")
        self.assertEqual(list(self.cloud.stacks), ["second"])
        self.assertLessEqual(zips(), self.cloud.objects.keys())
        self.made("destroy", "STACK=second", said="destroy\n")
        self.assertEqual([key for key in self.cloud.objects], [])

    def test_url_logs_and_outputs_are_those_of_the_stack(self):
        self.assertIn("no stack response-boost in eu-west-1", self.refused("url"))
        self.stands()
        self.assertEqual(self.make("url").stdout, "https://response-boost.execute-api.eu-west-1.amazonaws.com\n")
        outputs = self.make("outputs").stdout
        self.assertIn("export Cache=response-boost-cache\n", outputs)
        self.assertIn("export StackName=response-boost\n", outputs)
        self.calls()
        self.make("logs", "STACK=Mine")
        self.assertEqual(self.calls(), [["logs", "--config-env", "default", "--stack-name", "Mine", "--tail"]])

    def test_a_stack_is_deleted_only_by_somebody_who_has_read_what_that_means(self):
        self.stands("AlarmEmail=oncall@example.org", config="prod", name="response-boost-prod")
        for said in ["", "yes\n", "y\n"]:
            self.assertIn("nothing was deleted", self.refused("destroy", "CONFIG=prod", said=said))
            self.assertIn("response-boost-prod", self.cloud.stacks)
        said = self.made("destroy", "CONFIG=prod", said="destroy\n")
        self.assertIn("keeps the table response-boost-prod-UsersTable", said)
        self.assertIn("aws dynamodb delete-table --table-name response-boost-prod-UsersTable", said)
        self.assertIn("up to forty", said)
        self.assertEqual(self.cloud.stacks, {})

    def test_a_stack_without_outputs_is_deleted(self):
        self.stands().status = "ROLLBACK_COMPLETE"
        self.made("destroy", said="destroy\n")
        self.assertEqual(self.cloud.stacks, {})

    def test_seed_needs_a_table(self):
        self.assertIn("TABLE is not set", self.refused("seed"))
        self.stands()
        self.assertIn("the stack of CONFIG=default has no table", self.refused("seed", "CONFIG=default"))

    def test_credentials_are_found_in_every_kind_of_profile(self):
        (self.folder / ".aws").mkdir()
        process = self.folder / "process"
        process.write_text("#!/bin/sh\necho '" + json.dumps({
            "Version": 1, "AccessKeyId": "AKIDPROCESS", "SecretAccessKey": "s", "SessionToken": "t"}) + "'\n")
        process.chmod(0o755)
        (self.folder / ".aws/config").write_text(
            f"[profile static]\naws_access_key_id = AKIDSTATIC\naws_secret_access_key = s\nregion = eu-west-3\n"
            f"[profile process]\ncredential_process = {process}\n"
            "[profile none]\nregion = eu-west-1\n")
        def found(profile):
            variables = self.variables(AWS_PROFILE=profile, AWS_EC2_METADATA_DISABLED="true")
            for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"]:
                variables.pop(name)
            asked = subprocess.run(["bash", "-c", ". scripts/lib.sh; . scripts/stack.sh; deployed credentials"],
                                   cwd=self.copy, env=variables, capture_output=True, text=True)
            return asked.stdout + asked.stderr
        self.assertIn("export AWS_ACCESS_KEY_ID=AKIDPROCESS\n", found("process"))
        self.assertIn("export AWS_SESSION_TOKEN=t\n", found("process"))
        self.assertIn("export AWS_ACCESS_KEY_ID=AKIDSTATIC\n", found("static"))
        self.assertIn("export AWS_REGION=eu-west-3\n", found("static"))
        self.assertIn("no AWS credentials", found("none"))


class Smoke(unittest.TestCase):
    def smoke(self, url, **variables):
        smoked = subprocess.run(["make", "smoke", f"URL={url}"], cwd=ROOT, capture_output=True, text=True,
                                env=environment(**variables))
        return smoked.returncode, smoked.stdout + smoked.stderr

    def test_what_is_as_it_should_be_passes_and_what_is_not_does_not(self):
        make = Make("run", f"PORT={free_port()}", CACHE_TTL_SECONDS="3")
        self.addCleanup(make.interrupt)
        api = make.wait_until_ready().removesuffix("/users/1")
        # The second time the user is already stored, so the script waits until the entry expires.
        for _ in range(2):
            code, said = self.smoke(api)
            self.assertEqual(code, 0, said)
            for case in ["miss: 200", "hit: 200", "304: 304", "404: 404", "405: 405", "everything as expected"]:
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
        """A server that always responds the same, and the Authorization headers that it got."""
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
