"""Checks openapi.yaml against the function behind `make run`, and against the template."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

from support import MANAS, ROOT, Make, ask, environment, free_port, needs

DOCUMENT = ROOT / "openapi.yaml"
PATH = "/users/{id}"

# Headers of the HTTP server in front, and headers that every response with a body has.
NOT_DOCUMENTED = {"connection", "content-length", "content-type", "date", "transfer-encoding"}


@needs(importlib.util.find_spec("schemathesis"), "no schemathesis, which needs Python 3.10")
class OpenApi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import jsonschema_rs
        import yaml

        cls.document = yaml.safe_load(DOCUMENT.read_text())
        cls.validator = staticmethod(lambda schema: jsonschema_rs.validator_for(
            {**schema, "components": cls.document["components"]}, validate_formats=True))
        cls.yaml = yaml
        cls.make = Make("run", f"PORT={free_port()}")
        cls.addClassCleanup(cls.make.interrupt)
        cls.api = cls.make.wait_until_ready().removesuffix("/users/1")

    def resolved(self, place):
        while "$ref" in place:
            target = self.document
            for name in place["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            place = target
        return place

    def checked(self, method, path, status, documented=None, **headers):
        """Sends a request, and checks the response against the document. Returns the response."""
        reply = ask(self.api + path, method, headers)
        self.assertEqual(reply.status, status)
        response = self.resolved(documented or
                                 self.document["paths"][PATH][method.lower()]["responses"][str(status)])

        described = {name.lower(): self.resolved(header)
                     for name, header in response.get("headers", {}).items()}
        given = {name.lower(): value for name, value in reply.headers.items()}
        required = {name for name, header in described.items() if header.get("required")}
        self.assertLessEqual(required, set(given), "a header that the document promises")
        self.assertLessEqual(set(given) - NOT_DOCUMENTED, set(described), "a header it does not know")
        for name in set(described) & set(given):
            is_number = described[name]["schema"]["type"] == "integer"
            value = int(given[name]) if is_number else given[name]
            self.validator(described[name]["schema"]).validate(value)

        content = response.get("content", {})
        if content:
            [(media_type, body)] = content.items()
            self.assertEqual(given["content-type"], media_type)
            self.validator(body["schema"]).validate(json.loads(reply.body))
        else:
            self.assertEqual(reply.body, "")
        return reply

    def examples(self, response):
        """The bodies in the examples of a response, as the function writes them."""
        [body] = self.document["components"]["responses"][response]["content"].values()
        return [json.dumps(example["value"], separators=(",", ":"), ensure_ascii=False)
                for example in body["examples"].values()]

    def test_the_examples_are_the_real_answers(self):
        tag = self.document["components"]["parameters"]["IfNoneMatch"]["examples"]["known"]["value"]
        ids = {name: example["value"] for name, example in
               self.document["components"]["parameters"]["Id"]["examples"].items()}
        known, unknown = f"/users/{ids['known']}", f"/users/{ids['unknown']}"

        for _ in ["miss", "hit"]:
            self.assertEqual([self.checked("GET", known, 200).body], self.examples("User"))
        self.assertEqual(self.examples("User"), [MANAS])
        self.assertIn("age", self.checked("HEAD", known, 200).headers)
        for method in ["GET", "HEAD"]:
            reply = self.checked(method, known, 304, **{"If-None-Match": tag})
            self.assertEqual(reply.headers["etag"], tag)
            self.checked(method, known, 412, **{"If-Match": '"other"'})
        self.assertEqual([self.checked("GET", unknown, 404).body], self.examples("NotFound"))
        self.checked("HEAD", unknown, 404)
        self.assertEqual([self.checked("GET", "/users/abc", 400).body], self.examples("BadRequest"))
        self.checked("HEAD", "/users/abc", 400)
        other_method = self.document["components"]["responses"]["MethodNotAllowed"]
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]:
            reply = self.checked(method, known, 405, other_method)
            self.assertEqual([reply.body], self.examples("MethodNotAllowed"))
        # The embedded users never fail, so `problem.rs` tests the example of a 503.

    def test_every_example_fits_its_schema(self):
        def walk(place):
            if isinstance(place, dict):
                if "schema" in place:
                    named = [example["value"] for example in place.get("examples", {}).values()]
                    for example in named + ([place["example"]] if "example" in place else []):
                        self.validator(place["schema"]).validate(example)
                        found.append(example)
                for inner in place.values():
                    walk(inner)
            elif isinstance(place, list):
                for inner in place:
                    walk(inner)

        found = []
        walk(self.document)
        self.assertGreater(len(found), 15)

    def test_the_document_is_openapi(self):
        checked = subprocess.run([sys.executable, "-m", "openapi_spec_validator", DOCUMENT],
                                 capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_schemathesis_finds_no_other_answer(self):
        # It writes files into its working folder.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        # The seed makes its requests the same each time.
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", DOCUMENT, "--url", self.api,
             "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful",
             "--max-examples", "300", "--seed", "9111", "--generation-database", "none"],
            cwd=folder.name, capture_output=True, text=True,
            env=environment(PYTHONPATH=os.environ.get("PYTHONPATH", "")))
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertRegex(run.stdout, r"(\d+) generated, \1 passed")
        self.assertIn("Selected: 2/2", run.stdout)

    def test_the_template_has_the_same_routes(self):
        class Loader(self.yaml.SafeLoader):
            pass

        # `!Ref` and other tags do not matter here.
        Loader.add_multi_constructor("!", lambda loader, tag, node: tag)
        template = self.yaml.load((ROOT / "template.yaml").read_text(), Loader)
        routes = template["Resources"]["HttpApi"]["Properties"]["DefinitionBody"]["paths"]
        # All other paths, so that the function answers 404; and all methods, so that it answers 405.
        self.assertEqual(routes.keys(), {*self.document["paths"], "$default"})
        for route in routes.values():
            # The gateway itself answers preflight requests.
            self.assertEqual(set(route) - {"options"}, {"x-amazon-apigateway-any-method"})


if __name__ == "__main__":
    unittest.main()
