"""The function behind the gateways of emulators, and with every event that SAM can generate."""

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

from support import MANAS, PATIENCE_S, ROOT, Make, Paths, ask, environment, free_port, needs

PLUGIN = ROOT / ".tools/serverless-offline/node_modules/serverless-offline"
SAM = ROOT / ".tools/sam"

# Like `sam local generate-event SERVICE EVENT`, for all of them in one process, with some values set.
GENERATE = """
import json, sys
from samcli.lib.generated_sample_events.events import Events
events, made = Events(), {}
for service, names in events.event_mapping.items():
    for name, definition in names.items():
        values = {tag: told["default"] for tag, told in definition["tags"].items()}
        values.update({tag: value for tag, value in json.loads(sys.argv[1]).items() if tag in values})
        made[f"{service} {name}"] = json.loads(events.generate_event(service, name, values))
print(json.dumps(made))
"""

# The events that are requests, with the status of their reply; then the names in the errors of the others.
ANSWERED = {"alb request": 404, "apigateway aws-proxy": 404, "apigateway http-api-proxy": 404,
            "apigateway request-authorizer": 404, "cloudwatch scheduled-event": 200}
REFUSED = {
    "cloudformation": "CloudFormation", "cloudfront": "CloudFront", "cloudwatch logs": "CloudWatch Logs",
    "codecommit": "aws:codecommit", "codepipeline": "CodePipeline", "config": "AWS Config", "dynamodb": "aws:dynamodb",
    "kinesis analytics": "Kinesis Data Analytics", "kinesis get-records": "aws:kinesis",
    "kinesis": "Amazon Data Firehose", "rekognition": "aws:s3", "s3 batch-invocation": "S3 Batch Operations",
    "s3": "aws:s3", "ses": "aws:ses", "sns": "aws:sns", "sqs": "aws:sqs", "workmail": "WorkMail",
}
# The senders of these wait for the reply, and notice that it is not one of theirs.
OTHERS = {"alexa-skills-kit", "alexa-smart-home", "apigateway authorizer", "appsync", "batch", "cognito", "connect", "lex",
          "lex-v2", "sagemaker", "stepfunctions"}


class Emulators(Paths, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.make = Make("run", f"PORT={free_port()}")
        cls.addClassCleanup(cls.make.interrupt)
        cls.api = cls.make.wait_until_ready().removesuffix("/users/1")
        cls.function = f"{cls.api}/2015-03-31/functions/users/invocations"

    def test_cargo_lambda_watch(self):
        self.assert_paths(self.api)
        self.assert_no_cors(self.api)

    def generated(self, **values):
        """Every event that SAM generates, with these values where an event has them."""
        return json.loads(subprocess.run(
            [sys.executable, "-c", GENERATE, json.dumps(values)], check=True, capture_output=True, text=True,
            env=environment(PYTHONPATH=str(SAM))).stdout)

    def invoked(self, event):
        return json.loads(ask(self.function, "POST", body=json.dumps(event)).body)

    @needs(SAM.is_dir(), "no SAM in .tools")
    def test_each_event_of_sam_local_generate_event(self):
        events = self.generated()
        self.assertGreaterEqual(len(events), 68)
        for name, event in events.items():
            service = name.split()[0]
            with self.subTest(event=name):
                reply = self.invoked(event)
                if name in ANSWERED:
                    self.assertEqual(reply.get("statusCode"), ANSWERED[name], reply)
                elif name in OTHERS or service in OTHERS:
                    self.assertEqual(reply.get("statusCode"), 400, reply)
                else:
                    kind = "kinesis analytics" if name.startswith("kinesis analytics") else name
                    source = REFUSED.get(kind) or REFUSED[service]
                    self.assertEqual(reply.get("errorType"), "NotARequest", reply)
                    self.assertTrue(reply["errorMessage"].startswith(f"an event of {source}, which is not a request"), reply)

    @needs(SAM.is_dir(), "no SAM in .tools")
    def test_the_requests_of_sam_local_generate_event_for_a_user(self):
        events = self.generated(path="users/1", method="GET")
        event = events["apigateway aws-proxy"]
        self.assertEqual((event["resource"], event["path"], event["httpMethod"]), ("/{proxy+}", "/users/1", "GET"))
        reply = self.invoked(event)
        self.assertEqual((reply["statusCode"], reply["body"]), (200, MANAS))

    @needs(PLUGIN.is_dir(), "no serverless-offline, which needs Node 20 and npm")
    def test_serverless_offline(self):
        http, alb, functions = (free_port() for _ in range(3))
        log = tempfile.TemporaryFile("w+")
        self.addCleanup(log.close)
        gateways = subprocess.Popen(
            ["node", ROOT / "tests/e2e/serverless-offline/run.mjs", PLUGIN, str(http), str(alb), str(functions)],
            env=environment(FUNCTION_URL=self.function), stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(gateways.wait)
        self.addCleanup(gateways.kill)
        output = lambda: os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")
        deadline = time.monotonic() + PATIENCE_S
        while "\nready" not in output():
            self.assertIsNone(gateways.poll(), output())
            self.assertLess(time.monotonic(), deadline, output())
            time.sleep(0.05)

        # This emulator removes a trailing slash, resolves dots, and rejects invalid UTF-8 itself.
        changed = {"/users/1/": 200, "/users/": 404, "/users/..": 404, "/users/%FF": 400, "/users/%zz": 400}
        self.assert_paths(f"http://127.0.0.1:{http}/dev", **changed)
        self.assert_paths(f"http://127.0.0.1:{http}", **changed)
        # Its load balancer has one route, and answers other paths itself.
        beside = ["/users", "/users/", "/users/..", "//users/1", "/users//1", "/users/1/orders", "/orders/1", "/Users/1", "/"]
        self.assert_paths(f"http://127.0.0.1:{alb}/dev", **changed, **{path: 404 for path in beside if path not in changed})
        for gateway in [f"http://127.0.0.1:{http}/dev", f"http://127.0.0.1:{http}"]:
            head = ask(f"{gateway}/users/1", "HEAD")
            self.assertEqual((head.status, head.headers["content-length"], head.body), (200, str(len(MANAS)), ""))
            self.assertEqual(ask(f"{gateway}/users/1", "DELETE").status, 405)


if __name__ == "__main__":
    unittest.main()
