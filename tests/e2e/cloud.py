"""A small AWS for the scripts: CloudFormation, S3, Lambda and CodeDeploy, over HTTP.

It models what matters to a deployment: parameters that keep their value, versions that keep their configuration, an
alias that CodeDeploy refuses to move if somebody else has moved it, alarms that stop a release, states that allow no
update, a bucket that stacks share. Of a template it reads the parameters, the table, where the programs are, and of the
users function the variables and the description of its versions; it creates no resources. It records any other request,
and replies with an empty success.
"""

import http.server
import json
import re
import sys
import threading
import urllib.parse
import xml.sax.saxutils

from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from parameters import defaults

ACCOUNT = "eu-west-1:123456789012"
BUCKET = "sam-bucket"
COMPLETE = ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"]


class Refused(Exception):
    pass


class Stack:
    def __init__(self, name, template, parameters):
        self.name, self.template, self.parameters = name, template, parameters
        self.status, self.events, self.outputs = "CREATE_COMPLETE", [], {}
        self.versions, self.weights = {}, {}
        self.live = self.believed = self.publish(template, parameters)
        self.extra_resources = []
        self.event(name, "AWS::CloudFormation::Stack", "CREATE_IN_PROGRESS")

    def event(self, logical, kind, status, physical="", reason=""):
        self.events.append({"LogicalResourceId": logical, "ResourceType": kind, "ResourceStatus": status,
                            "PhysicalResourceId": physical or logical, "ResourceStatusReason": reason})

    def publish(self, template, parameters):
        """Publishes a version, which keeps the function's configuration of this moment, and returns its number."""
        version = str(len(self.versions) + 1)
        self.versions[version] = {"Version": version, **configuration(template, parameters)}
        return version

    def release(self, **changes):
        """A release by a few parameters, as make deploy makes it."""
        self.parameters = {**self.parameters, "ReleaseId": f"{len(self.versions)}", "PreviousVersion": self.live, **changes}
        self.live = self.believed = self.publish(self.template, self.parameters)

    @property
    def function(self):
        return f"{self.name}-UsersFunction"

    def table(self):
        return f"{self.name}-UsersTable" if self.parameters["UserStore"] == "dynamodb" and not self.parameters["TableName"] else ""

    def resources(self):
        arn = f"arn:aws:lambda:{ACCOUNT}:function:{self.function}"
        resources = [("UsersFunction", "AWS::Lambda::Function", self.function),
                     ("UsersFunctionVersion", "AWS::Lambda::Version", f"{arn}:{self.believed}")]
        if self.parameters["DeploymentByCodeDeploy"] == "true":
            resources += [("ServerlessDeploymentApplication", "AWS::CodeDeploy::Application", f"{self.name}-app"),
                          ("UsersFunctionDeploymentGroup", "AWS::CodeDeploy::DeploymentGroup", f"{self.name}-group")]
        if self.table():
            resources.append(("UsersTable", "AWS::DynamoDB::Table", self.table()))
        return resources + self.extra_resources

    def describe(self):
        outputs = {"ApiUrl": f"https://{self.name}.execute-api.eu-west-1.amazonaws.com", "UsersFunction": self.function,
                   "ApiAuthorization": self.parameters["ApiAuthorization"], "ApiId": f"{self.name}-api",
                   "UsersTable": self.table() or self.parameters["TableName"], "Cache": f"{self.name}-cache",
                   "UsersLogGroup": f"{self.name}-log", "InvalidateFunction": f"{self.name}-InvalidateFunction",
                   "InvalidateLogGroup": f"{self.name}-invalidate-log", "ApiLogGroup": f"{self.name}-api-log",
                   "FailureQueue": f"https://sqs.eu-west-1.amazonaws.com/123456789012/{self.name}-failures",
                   **self.outputs}
        if self.status not in COMPLETE and not self.status.startswith("UPDATE"):
            outputs = {}
        return {"StackName": self.name, "StackId": f"arn:aws:cloudformation:{ACCOUNT}:stack/{self.name}/1",
                "StackStatus": self.status, "CreationTime": "2026-11-27T00:00:00Z", "EnableTerminationProtection": "false",
                "Parameters": pairs("Parameter", self.parameters), "Outputs": pairs("Output", outputs)}


class Cloud:
    def __init__(self):
        self.stacks, self.objects, self.change_sets, self.calls = {}, {}, {}, []
        # Faults to inject: an alarm rings, a first deployment fails.
        self.alarm = self.fails = False
        # Running deployments of CodeDeploy.
        self.running = []
        cloud = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if "aws-chunked" in (self.headers.get("content-encoding") or ""):
                    body = unchunked(body)
                status, kind, reply = cloud.asked(self, body)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("etag", '"1"')
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def asked(self, request, body):
        signed = re.search(r"/([a-z0-9-]+)/aws4_request", request.headers.get("authorization") or "")
        service = signed[1] if signed else "s3"
        url = urllib.parse.urlsplit(request.path)
        try:
            if service == "s3":
                return self.s3(request.command, urllib.parse.unquote(url.path), url.query, body)
            target = request.headers.get("x-amz-target")
            if target:
                return self.json(service, target.rsplit(".", 1)[1], json.loads(body))
            if (request.headers.get("content-type") or "").startswith("application/x-www-form-urlencoded"):
                asked = {name: values[0] for name, values in urllib.parse.parse_qs(body.decode(), True).items()}
                return self.query(service, asked.pop("Action"), asked)
            return self.rest(service, request.command, urllib.parse.unquote(url.path), json.loads(body or "{}"))
        except Refused as refused:
            error = {"Error": {"Code": "ValidationError", "Message": str(refused), "Type": "Sender"}}
            return 400, "text/xml", xml_of("ErrorResponse", error)

    # S3 -----------------------------------------------------------------------------------------------

    def s3(self, method, path, query, body):
        bucket, _, key = path.strip("/").partition("/")
        if method == "PUT" and key:
            self.objects[key] = body
        elif method == "DELETE":
            self.objects.pop(key, None)
        elif method in ["HEAD", "GET"] and key:
            if key not in self.objects:
                return 404, "text/xml", b""
            return 200, "binary/octet-stream", self.objects[key]
        elif "list-type=2" in query:
            begin = urllib.parse.parse_qs(query).get("prefix", [""])[0]
            keys = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in self.objects if key.startswith(begin))
            return 200, "text/xml", f"<ListBucketResult><Name>{bucket}</Name>{keys}</ListBucketResult>".encode()
        return 200, "text/xml", b""

    # CloudFormation, and other services with the query protocol ---------------------------------------

    def query(self, service, action, asked):
        if service == "cloudformation" and hasattr(self, action):
            result = getattr(self, action)(asked)
        else:
            if service == "cloudformation":
                self.stack(asked)
            self.calls.append((service, action, asked))
            result = {}
        return 200, "text/xml", xml_of(f"{action}Response", {f"{action}Result": result})

    def stack(self, asked):
        name = asked["StackName"].split("/")[1] if asked["StackName"].startswith("arn:") else asked["StackName"]
        if name not in self.stacks:
            raise Refused(f"Stack with id {name} does not exist")
        return self.stacks[name]

    def DescribeStacks(self, asked):
        if asked["StackName"] == "aws-sam-cli-managed-default":
            return {"Stacks": [{"StackName": asked["StackName"], "StackStatus": "CREATE_COMPLETE",
                                "CreationTime": "2026-11-27T00:00:00Z",
                                "Tags": [{"Key": "ManagedStackSource", "Value": "AwsSamCli"}],
                                "Outputs": pairs("Output", {"SourceBucket": BUCKET})}]}
        described = self.stack(asked).describe()
        for output in described["Outputs"]:
            # A queue's address contains that of the service.
            output["OutputValue"] = output["OutputValue"].replace("https://sqs.eu-west-1.amazonaws.com", self.url)
        return {"Stacks": [described]}

    def DescribeStackEvents(self, asked):
        # Until its change set is executed, a new stack is under review, and has no other event.
        under_review = asked["StackName"] in {name for name, *_ in self.change_sets.values()}
        review = {"LogicalResourceId": asked["StackName"], "ResourceType": "AWS::CloudFormation::Stack",
                  "ResourceStatus": "REVIEW_IN_PROGRESS", "PhysicalResourceId": asked["StackName"]}
        events = [review] if under_review and asked["StackName"] not in self.stacks else self.stack(asked).events
        # SAM recognizes the stack's own events by this id.
        return {"StackEvents": [{"EventId": str(number), "StackName": asked["StackName"], "StackId": asked["StackName"],
                                 "Timestamp": f"2026-11-27T00:{number // 60:02}:{number % 60:02}Z", **event}
                                for number, event in reversed(list(enumerate(events)))]}

    def ListStackResources(self, asked):
        return {"StackResourceSummaries": [
            {"LogicalResourceId": logical, "ResourceType": kind, "PhysicalResourceId": physical,
             "ResourceStatus": "CREATE_COMPLETE", "LastUpdatedTimestamp": "2026-11-27T00:00:00Z"}
            for logical, kind, physical in self.stack(asked).resources()]}

    def GetTemplate(self, asked):
        # SAM recognizes an S3 object by AWS's own address.
        return {"TemplateBody": self.stack(asked).template.replace(self.url, "https://s3.eu-west-1.amazonaws.com")}

    def DescribeStackResource(self, asked):
        raise Refused(f"Resource {asked['LogicalResourceId']} does not exist for stack {self.stack(asked).name}")

    def GetTemplateSummary(self, asked):
        return {"Parameters": [{"ParameterKey": name} for name in self.stack(asked).parameters]}

    def CreateChangeSet(self, asked):
        template = asked.get("TemplateBody") or self.object_at(asked["TemplateURL"])
        existing = self.stacks.get(asked["StackName"])
        if existing and existing.status not in COMPLETE:
            raise Refused(f"Stack:{existing.name} is in {existing.status} state and can not be updated.")
        if (asked["ChangeSetType"] == "UPDATE") != bool(existing):
            raise Refused(f"Stack {asked['StackName']} does not fit {asked['ChangeSetType']}")
        self.change_sets[asked["ChangeSetName"]] = (asked["StackName"], template, self.given(asked, template, existing))
        return {"Id": asked["ChangeSetName"], "StackId": asked["StackName"]}

    def object_at(self, url):
        return self.objects[urllib.parse.urlsplit(url).path.strip("/").partition("/")[2]].decode()

    @staticmethod
    def given(asked, template, existing):
        """Applies parameters as CloudFormation does."""
        values = defaults(template)
        for number in range(1, 1000):
            prefix = f"Parameters.member.{number}."
            if f"{prefix}ParameterKey" not in asked:
                return values
            name = asked[f"{prefix}ParameterKey"]
            if asked.get(f"{prefix}UsePreviousValue") == "true":
                # Only a stack that has the parameter has a previous value.
                if existing and name in existing.parameters:
                    values[name] = existing.parameters[name]
            else:
                values[name] = asked[f"{prefix}ParameterValue"]

    def DescribeChangeSet(self, asked):
        return {"ChangeSetName": asked["ChangeSetName"], "Status": "CREATE_COMPLETE", "ExecutionStatus": "AVAILABLE",
                "Changes": [{"Type": "Resource", "ResourceChange": {
                    "Action": "Modify", "LogicalResourceId": "UsersFunction", "ResourceType": "AWS::Lambda::Function",
                    "Replacement": "False"}}]}

    def ExecuteChangeSet(self, asked):
        self.apply(*self.change_sets.pop(asked["ChangeSetName"]))
        return {}

    def UpdateStack(self, asked):
        stack = self.stack(asked)
        assert asked["UsePreviousTemplate"] == "true"
        self.apply(stack.name, stack.template, self.given(asked, stack.template, stack))
        return {"StackId": stack.name}

    def apply(self, name, template, values):
        stack = self.stacks.get(name)
        if stack is None:
            stack = self.stacks[name] = Stack(name, template, values)
            if self.fails:
                stack.event("Cache", "AWS::ElastiCache::ServerlessCache", "CREATE_FAILED",
                            reason="some subnets are not in a zone that has serverless caches")
                stack.event("UsersRole", "AWS::IAM::Role", "CREATE_FAILED", reason="Resource creation cancelled")
                stack.status = "ROLLBACK_COMPLETE"
            stack.event(name, "AWS::CloudFormation::Stack", stack.status)
            return
        stack.event(name, "AWS::CloudFormation::Stack", "UPDATE_IN_PROGRESS")
        if values["ReleaseId"] != stack.parameters["ReleaseId"]:
            by_code_deploy = values["DeploymentByCodeDeploy"] == "true"
            stopped = None
            if by_code_deploy and stack.live != stack.believed:
                stopped = "The Lambda function alias version does not match the current version in AppSpec file"
            elif by_code_deploy and self.alarm and values["DeploymentAlarms"] == "true":
                stopped = "One or more alarms have been activated"
            version = stack.publish(template, values)
            if stopped:
                stack.event("UsersFunctionAliaslive", "AWS::Lambda::Alias", "UPDATE_FAILED", reason=stopped)
                stack.status = "UPDATE_ROLLBACK_COMPLETE"
                stack.event(name, "AWS::CloudFormation::Stack", stack.status)
                return
            stack.live = stack.believed = version
        stack.template, stack.parameters, stack.status = template, values, "UPDATE_COMPLETE"
        stack.event(name, "AWS::CloudFormation::Stack", stack.status)

    def DeleteStack(self, asked):
        self.stacks.pop(self.stack(asked).name)
        return {}

    # Lambda, and other services with REST -------------------------------------------------------------

    def rest(self, service, method, path, asked):
        if service != "lambda":
            self.calls.append((service, f"{method} {path}", asked))
            return 200, "application/json", b"{}"
        _, _, _, function, *rest = [*path.split("/"), ""]
        stack = next((stack for stack in self.stacks.values() if function == stack.function), None)
        if stack is None:
            self.calls.append((service, f"{method} {path}", asked))
            reply = {}
        elif rest[:1] == ["aliases"]:
            if method == "PUT":
                stack.live, stack.weights = asked["FunctionVersion"], {}
            reply = {"Name": "live", "FunctionVersion": stack.live, "RoutingConfig": {"AdditionalVersionWeights": stack.weights}}
        elif rest[:1] == ["versions"]:
            reply = {"Versions": [{"Version": "$LATEST"}, *stack.versions.values()]}
        else:
            self.calls.append((service, f"{method} {path}", asked))
            reply = {}
        return 200, "application/json", json.dumps(reply).encode()

    # CodeDeploy, and other services with JSON ----------------------------------------------------------

    def json(self, service, action, asked):
        reply = {}
        if action == "ListDeployments":
            reply = {"deployments": self.running}
        elif action == "ReceiveMessage":
            # As long as real ones, because the AWS CLI checks the length.
            batch = {"streamArn": "arn:aws:dynamodb:eu-west-1:123456789012:table/users/stream/2026-11-27T00:00:00.000",
                     "shardId": "shardId-00000001764200000000-0123abcd",
                     "startSequenceNumber": "100000000000000000001", "endSequenceNumber": "100000000000000000002"}
            reply = {"Messages": [{"MessageId": "1", "ReceiptHandle": "1", "Body": json.dumps({"DDBStreamBatchInfo": batch})}]}
        else:
            self.calls.append((service, action, asked))
        return 200, "application/x-amz-json-1.1", json.dumps(reply).encode()


def configuration(template, parameters):
    """The configuration of the users function, out of a template of this repository or what SAM makes of it."""
    described = re.search(r"VersionDescription:\s+(?:!Sub|Fn::Sub:)\s+(.*)\n", template)[1]
    description = re.sub(r"\$\{(\w+)\}", lambda name: parameters[name[1]], described)
    variables = {name: parameters[value] for name, value in re.findall(r"\b([A-Z_]{4,}):\s+(?:!Ref|Ref:) (\w+)\n", template)
                 if value in parameters}
    program = re.search(r"CodeUri: (s3:\S+)", template)[1]
    return {"Description": description, "CodeSha256": program, "MemorySize": int(parameters["MemorySize"]),
            "Environment": {"Variables": variables}}


def pairs(kind, values):
    return [{f"{kind}Key": name, f"{kind}Value": str(value)} for name, value in values.items() if value is not None]


def xml_of(name, value):
    return f"<{name}>{xml_inner(value)}</{name}>".encode()


def xml_inner(value):
    if isinstance(value, dict):
        return "".join(f"<{name}>{xml_inner(inner)}</{name}>" for name, inner in value.items())
    if isinstance(value, list):
        return "".join(f"<member>{xml_inner(inner)}</member>" for inner in value)
    return xml.sax.saxutils.escape(str(value))


def unchunked(body):
    """The content of an upload with a trailing checksum."""
    whole = b""
    while body:
        head, _, body = body.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if not size:
            break
        whole, body = whole + body[:size], body[size + 2:]
    return whole
