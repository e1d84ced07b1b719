"""Checks the documents against reality.

The tests run the commands of docs/operations.md, of docs/deploy.md and of the README's part on deploying as they are.
In all documents, every target, file, section and variable must exist.
"""

import re
import subprocess
import unittest

import test_deploy
from support import ROOT

# Commands that call the API or follow a log forever; test_deploy has them.
NOT_HERE = r"^(make (smoke|seed|logs)|curl)\b.*\n"

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")),
             *sorted((ROOT / "crates").glob("*/README.md"))]


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
        for memory in range(512, 524):
            stack.release(MemorySize=str(memory))
        self.aws = self.folder / "aws"
        self.aws.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT}/.tools/awscli exec python3 {ROOT}/.tools/awscli/bin/aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n')
        self.aws.chmod(0o755)

    def run_block(self, block, begin=""):
        # Whatever an earlier one has rolled back.
        for stack in self.cloud.stacks.values():
            stack.live = stack.believed
        ran = subprocess.run(["bash", "-euo", "pipefail", "-c", begin + block], cwd=self.copy, input="destroy\n", text=True,
                             capture_output=True, env=self.variables())
        self.assertEqual(ran.returncode, 0, f"{block}\n{ran.stdout}{ran.stderr}")
        return ran.stdout + ran.stderr

    def test_each_command_of_the_runbook_runs_and_names_what_there_is(self):
        begin, *commands = blocks("docs/operations.md")
        self.assertGreater(len(commands), 15)
        for block in commands:
            with self.subTest(block=block):
                self.run_block(block, begin)
        called = {(service, action): asked for service, action, asked in self.cloud.calls}
        name = "response-boost-prod"
        self.assertEqual(called["dynamodb", "UpdateTable"]["TableName"], f"{name}-UsersTable")
        self.assertEqual(called["elasticache", "ModifyServerlessCache"]["ServerlessCacheName"], f"{name}-cache")
        self.assertIn(("lambda", f"PUT /2017-10-31/functions/{name}-UsersFunction/concurrency"), called)
        self.assertIn(("apigateway", f"PATCH /v2/apis/{name}-api/stages/$default"), called)
        for function in ["UsersFunction", "InvalidateFunction"]:
            self.assertIn(("lambda", f"POST /2015-03-31/functions/{name}-{function}/invocations"), called)
        self.assertTrue(called["sqs", "PurgeQueue"]["QueueUrl"].endswith(f"{name}-failures"))
        self.assertNotIn(name, self.cloud.stacks, "the last one deletes it")

    def run_commands(self, document, section):
        commands = [command for block in blocks(document, section) for command in block.splitlines() if command]
        self.assertTrue(commands)
        for command in commands:
            with self.subTest(command=command):
                self.run_block(command)

    def test_each_command_of_the_page_on_deploying_runs(self):
        self.run_commands("docs/deploy.md", "The stack")
        self.assertEqual(list(self.cloud.stacks), ["response-boost"], "destroy deletes the one of prod")

    def test_each_command_of_the_readme_on_deploying_runs(self):
        self.run_commands("README.md", "Deploy in ten minutes")
        self.assertEqual(list(self.cloud.stacks), ["response-boost-prod"], "destroy deletes the default one")


def anchors(text):
    """The anchors that GitHub creates for the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Names(unittest.TestCase):
    """The names in the documents."""

    def test_each_link_leads_to_a_file_and_a_section(self):
        for path in DOCUMENTS:
            text = path.read_text()
            links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
            for link in links:
                if "://" in link:
                    continue
                with self.subTest(document=path.name, link=link):
                    file, _, anchor = link.partition("#")
                    target = path.parent / file if file else path
                    self.assertTrue(target.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(target.read_text()))

    def test_each_target_of_make_exists(self):
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for path in DOCUMENTS:
            found = re.findall(r"^```sh\n(.*?)^```|`(make [^`]+)`", path.read_text(), re.M | re.S)
            code = "\n".join(block or inline for block, inline in found)
            for target in re.findall(r"(?:^|\$\()make ([a-z-]+)", code, re.MULTILINE):
                self.assertIn(target, targets, path.name)

    def test_the_variables_of_the_docs_are_those_that_the_program_reads(self):
        documented = {name for cell in re.findall(r"^\| (`[A-Z_`, ]+`) \|", (ROOT / "docs/variables.md").read_text(), re.M)
                      for name in re.findall(r"[A-Z_]+", cell)}
        code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
        read = set(re.findall(r'"((?:REDIS|CACHE|API|POWERTOOLS|USERS|WARM)_[A-Z_]+)"', code))
        self.assertLessEqual(documented - {"RUST_LOG"}, set(re.findall(r'"([A-Z_]+)"', code)))
        self.assertEqual(read - documented, set())

    def test_the_readme_fits_its_limit(self):
        self.assertLessEqual(len((ROOT / "README.md").read_text().splitlines()), 220)

    def test_the_readme_has_the_figures_of_the_benchmarks_and_the_costs(self):
        readme = (ROOT / "README.md").read_text()
        figures = (ROOT / "docs/benchmark-figures.md").read_text()

        def row(name):
            [line] = re.findall(rf"^\| {re.escape(name)} +\|(.*)\|$", figures.partition("## Counted")[0], re.M)
            return [cell.strip() for cell in line.split("|")]

        warm, start = -3, -1
        for name in ["response-boost: hit", "cached, Redis macro", "tower-http-cache, Redis backend",
                     "FastAPI + aiocache + Mangum"]:
            self.assertIn(row(name)[warm], readme, name)
        self.assertIn(row("response-boost: hit")[start], readme)
        for name in ["redis-py", "FastAPI + aiocache + Mangum"]:
            self.assertIn(f"{float(row(name)[start].rstrip('×')):.0f}×", readme, name)
        costs = re.findall(r"^\| \*\*together\*\* \|(.*)\|$", (ROOT / "docs/costs.md").read_text(), re.M)
        [saved] = re.findall(r"^\| saved \|(.*)\|$", (ROOT / "docs/costs.md").read_text(), re.M)
        [begins] = re.findall(r"^\| as above \| ([\d.]+) \|", (ROOT / "docs/costs.md").read_text(), re.M)
        self.assertIn(f"saves money from {begins} requests a second on", readme)
        [most] = re.findall(r"# (\d+) USD$", (ROOT / "docs/costs.md").read_text(), re.M)
        self.assertIn(f"and {most} if somebody", readme)
        table = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")]
                                                   for line in re.findall(r"^\| [\d,]+ \|.*$", readme, re.M))}
        for at, load in [(1, "1"), (3, "100"), (4, "1,000")]:
            def dollars(line):
                return f"{float(line.replace('*', '').replace(',', '').split('|')[at]):,.0f}"

            self.assertEqual(table[load][:2], [dollars(line) for line in costs])
            self.assertRegex(table[load][2], rf" {dollars(saved).lstrip('-')}$")


if __name__ == "__main__":
    unittest.main()
