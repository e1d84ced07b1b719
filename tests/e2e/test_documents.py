"""The commands of docs/operations.md and of the README's part on deploying, each run as it stands there."""

import re
import subprocess
import unittest

import test_deploy
from support import ROOT

# What asks the API itself, or follows a log for good; test_deploy has them.
NOT_HERE = r"^(make (smoke|seed|logs)|curl)\b.*\n"


def blocks(document, section=""):
    """The commands of a document, block by block."""
    text = (ROOT / document).read_text()
    if section:
        text = re.search(rf"^## {section}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]
    return [re.sub(NOT_HERE, "", block, flags=re.MULTILINE) for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)]


class Documents(test_deploy.Harness):
    def setUp(self):
        super().setUp()
        configuration = self.copy / "samconfig.toml"
        before = configuration.read_text()
        self.addCleanup(configuration.write_text, before)
        configuration.write_text(before.replace("you@example.com", "oncall@example.org"))
        self.stands("AlarmEmail=oncall@example.org", config="prod", name="response-boost-prod")
        stack = self.cloud.stacks["response-boost-prod"]
        stack.versions, stack.live, stack.believed = [str(number) for number in range(1, 14)], "13", "13"
        self.aws = self.folder / "aws"
        self.aws.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT}/.tools/awscli exec python3 {ROOT}/.tools/awscli/bin/aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n')
        self.aws.chmod(0o755)

    def run_block(self, block):
        names = 'eval "$(make outputs CONFIG=prod)"\n'
        ran = subprocess.run(["bash", "-euo", "pipefail", "-c", names + block], cwd=self.copy, input="destroy\n", text=True,
                             capture_output=True, env=self.variables())
        self.assertEqual(ran.returncode, 0, f"{block}\n{ran.stdout}{ran.stderr}")
        return ran.stdout + ran.stderr

    def test_each_command_of_the_runbook_runs_and_names_what_there_is(self):
        commands = blocks("docs/operations.md")
        self.assertGreater(len(commands), 15)
        for block in commands:
            with self.subTest(block=block):
                self.run_block(block)
        called = {(service, action): asked for service, action, asked in self.cloud.calls}
        name = "response-boost-prod"
        self.assertEqual(called["dynamodb", "UpdateTable"]["TableName"], f"{name}-UsersTable")
        self.assertEqual(called["elasticache", "ModifyServerlessCache"]["ServerlessCacheName"], f"{name}-cache")
        self.assertIn(("lambda", f"PUT /2017-10-31/functions/{name}-UsersFunction/concurrency"), called)
        self.assertIn(("apigateway", f"PATCH /v2/apis/{name}-api/stages/$default"), called)
        self.assertIn(("lambda", f"POST /2015-03-31/functions/{name}-InvalidateFunction/invocations"), called)
        self.assertTrue(called["sqs", "PurgeQueue"]["QueueUrl"].endswith(f"{name}-failures"))
        self.assertNotIn(name, self.cloud.stacks, "the last one deletes it")

    def test_each_command_of_the_readme_runs(self):
        commands = [command for block in blocks("README.md", "Deployed") for command in block.splitlines() if command]
        self.assertGreaterEqual(len(commands), 5)
        for command in commands:
            with self.subTest(command=command):
                self.run_block(command)
        self.assertEqual(list(self.cloud.stacks), ["response-boost"])


if __name__ == "__main__":
    unittest.main()
