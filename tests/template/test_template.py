"""What is deployed, for every choice of parameters that matters."""

import concurrent.futures
import itertools
import json
import os
import re
import sys
import unittest

import parliament
from cfnlint.api import lint

from support import ROOT, deployed, load, refusals, transformed

sys.path.insert(0, str(ROOT / "scripts"))

from parameters import release_parts

NETWORK = {"SubnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1", "SecurityGroupIds": "sg-0123456789abcdef0"}
EXISTING = {"CacheMode": "existing", "RedisUrl": "rediss://cache.example:6379", **NETWORK}
SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:redis-AbCdEf"
TABLE = {"UserStore": "dynamodb", "TableName": "people",
         "StreamArn": "arn:aws:dynamodb:eu-west-1:123456789012:table/people/stream/2026-11-27T00:00:00.000"}
CACHES = [
    {"CacheMode": "managed"},
    {"CacheMode": "managed", "FirstZoneId": "euw1-az1", "SecondZoneId": "euw1-az3", "CacheEnabled": "false"},
    {"CacheMode": "managed", **NETWORK},
    {"CacheMode": "managed", "SubnetIds": NETWORK["SubnetIds"], "VpcId": "vpc-0123456789abcdef0"},
    EXISTING,
    {**EXISTING, "RedisPasswordSecret": SECRET},
    {**EXISTING, "RedisIamUser": "alice", "RedisIamCache": "shared"},
    {**EXISTING, "RedisIamUser": "alice", "RedisIamCache": "shared", "RedisIamServerless": "false"},
    {"CacheMode": "none"},
]
STORES = [{"UserStore": "embedded"}, {"UserStore": "dynamodb"}, TABLE]
ACCESS = [
    {"ApiAuthorization": "NONE"},
    {"ApiAuthorization": "AWS_IAM"},
    {"ApiAuthorization": "JWT", "JwtIssuer": "https://issuer.example", "JwtAudience": "users"},
    {"ApiAuthorization": "JWT", "JwtIssuer": "https://issuer.example", "JwtAudience": "users",
     "JwtScopes": "users/read,users/admin", "CorsAllowOrigins": "https://app.example", "ApiBasePath": "/api"},
]
OPERATIONS = [
    {"DeploymentType": "AllAtOnce"},
    {"AlarmEmail": "oncall@example.org", "ReservedConcurrency": 100, "MonthlyBudgetUsd": 200},
    # Everything that can be turned off is off.
    {"DeploymentAlarms": "false", "DeploymentByCodeDeploy": "false", "Tracing": "false", "AccessLog": "false",
     "AlarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:on-call",
     "PermissionsBoundary": "arn:aws:iam::123456789012:policy/boundary"},
]
DIMENSIONS = [CACHES, STORES, ACCESS, OPERATIONS]
# Each choice, and its index in each dimension.
ALL = [({**cache, **store, **access, **operations}, places) for (cache, store, access, operations), places
       in zip(itertools.product(*DIMENSIONS), itertools.product(*(range(len(values)) for values in DIMENSIONS)))]
ALLOWED = [(choice, places) for choice, places in ALL if not refusals(**choice)]
CHOICES = [choice for choice, _ in ALLOWED]


def pairwise():
    """A subset of the choices that contains every possible pair of values."""
    pairs = [set(itertools.combinations(enumerate(places), 2)) for _, places in ALLOWED]
    left = set().union(*pairs)
    while left:
        best = max(range(len(pairs)), key=lambda number: len(pairs[number] & left))
        left -= pairs[best]
        yield CHOICES[best]


# All of them take a quarter of an hour.
CHECKED = CHOICES if os.environ.get("EVERY_CHOICE") else list(pairwise())


def findings(template, *ignored):
    # W2001, W3010: parameters and zones that only SAM has used, or that are replaced by now.
    found = lint(json.dumps(template), regions=["eu-west-1"])
    return [str(match) for match in found if match.rule.id not in ["W2001", "W3010", *ignored]]


def findings_of_choice(choice):
    return findings(deployed(**choice))


def of_type(template, kind):
    return {name: resource["Properties"] for name, resource in template["Resources"].items()
            if resource["Type"] == kind}


def statements(template):
    """Everything that roles and policies allow and deny, with the name of the resource."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        policies = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        if "PolicyDocument" in properties:
            policies.append(properties["PolicyDocument"])
        for policy in policies:
            for statement in policy["Statement"]:
                action, resources = statement["Action"], statement["Resource"]
                yield (name, statement["Effect"], [action] if isinstance(action, str) else action,
                       resources if isinstance(resources, list) else [resources])


def resource_name(resource):
    """A name as AWS would assign it, for a resource that has none before it exists."""
    if isinstance(resource, str):
        # parliament takes the colons of a time for those of the ARN.
        return re.sub(r"(/stream/[0-9-]+)T.*", r"\1", resource)
    account = "eu-west-1:123456789012"
    names = {
        "UsersTable.Arn": f"arn:aws:dynamodb:{account}:table/users",
        "UsersTable.StreamArn": f"arn:aws:dynamodb:{account}:table/users/stream/2026-11-27",
        "UsersFunction.Arn": f"arn:aws:lambda:{account}:function:users",
        "ReleaseCheckFunction.Arn": f"arn:aws:lambda:{account}:function:check",
        "FailureQueue.Arn": f"arn:aws:sqs:{account}:failures",
        "Cache.ARN": f"arn:aws:elasticache:{account}:serverlesscache:users",
        "CacheUser.Arn": f"arn:aws:elasticache:{account}:user:users",
        "UsersLogGroup.Arn": f"arn:aws:logs:{account}:log-group:users:*",
        "InvalidateLogGroup.Arn": f"arn:aws:logs:{account}:log-group:invalidate:*",
    }
    (function, argument), = resource.items()
    if function == "Fn::GetAtt":
        return names[".".join(argument)]
    return re.sub(r"\$\{(\w+\.\w+)\}", lambda match: names[match[1]], argument)


def in_processes(function, arguments):
    """The results in order. Processes share semaphores, which need a writable /dev/shm. A container or a chroot may
    lack it; then one process does everything."""
    try:
        pool = concurrent.futures.ProcessPoolExecutor()
    except OSError:
        return list(map(function, arguments))
    with pool:
        return list(pool.map(function, arguments))


class Choices(unittest.TestCase):
    """Tests of all choices."""

    def each(self):
        for choice in CHOICES:
            with self.subTest(**choice):
                yield deployed(**choice)

    def test_there_are_choices_and_some_are_refused(self):
        self.assertEqual(len(ALL), 9 * 3 * 4 * 3)
        # NONE in front of a table, created or yours: 9 caches, 3 ways to operate.
        self.assertEqual(len(CHOICES), len(ALL) - 9 * 2 * 3)

    def test_cfn_lint_has_nothing_against_what_is_deployed(self):
        for choice, found in zip(CHECKED, in_processes(findings_of_choice, CHECKED)):
            with self.subTest(**choice):
                self.assertEqual(found, [])

    def test_cfn_lint_has_nothing_against_what_sam_makes_of_it(self):
        # Only this finds circular references between resources. W1028: a condition in the variables of both functions
        # is always true for one of them.
        self.assertEqual(findings(transformed(), "W1028"), [])

    def test_no_right_is_wider_than_it_must_be(self):
        everything = set()
        for template in self.each():
            for name, effect, actions, resources in statements(template):
                if effect == "Deny":
                    continue
                for action in actions:
                    self.assertNotIn("*", action, name)
                wide = [resource for resource in resources if "*" in str(resource)]
                everything.update((name, action, str(resource)) for action in actions for resource in wide)
        # X-Ray and network interfaces have no names in advance; CloudWatch lists all alarms or none; the versions of
        # one function; the streams of one table; keys of one table, which roles add to.
        self.assertEqual({(name, action) for name, action, _ in everything}, {
            ("FunctionPolicy", "xray:PutTelemetryRecords"),
            ("FunctionPolicy", "xray:PutTraceSegments"),
            ("FunctionPolicy", "ec2:AssignPrivateIpAddresses"),
            ("FunctionPolicy", "ec2:CreateNetworkInterface"),
            ("FunctionPolicy", "ec2:DeleteNetworkInterface"),
            ("FunctionPolicy", "ec2:DescribeNetworkInterfaces"),
            ("FunctionPolicy", "ec2:DescribeSubnets"),
            ("FunctionPolicy", "ec2:UnassignPrivateIpAddresses"),
            ("ReleaseCheckRole", "xray:PutTelemetryRecords"),
            ("ReleaseCheckRole", "xray:PutTraceSegments"),
            # Any version of the one function; a right that applies to no resource.
            ("ReleaseCheckRole", "lambda:InvokeFunction"),
            ("ReleaseCheckRole", "codedeploy:PutLifecycleEventHookExecutionStatus"),
            ("DeploymentRole", "cloudwatch:DescribeAlarms"),
            ("DeploymentRole", "lambda:GetAlias"),
            ("DeploymentRole", "lambda:GetProvisionedConcurrencyConfig"),
            ("DeploymentRole", "lambda:UpdateAlias"),
            ("InvalidateRole", "dynamodb:ListStreams"),
        })

    def test_parliament_has_nothing_against_the_policies(self):
        """The linter knows all actions, and which resources and conditions each accepts."""
        policies = set()
        for template in self.each():
            for name, effect, actions, resources in statements(template):
                resources = [resource_name(resource) for resource in resources]
                policies.add((name, json.dumps({"Version": "2012-10-17", "Statement": [
                    {"Effect": effect, "Action": actions, "Resource": resources}]})))
        self.assertGreater(len(policies), 10)
        found = {(name, str(finding).partition(" - {")[0]) for name, policy in policies
                 for finding in parliament.analyze_policy_string(policy).findings}
        self.assertEqual(found, {
            # AWS's own examples name the streams of a table, which IAM's list does not include.
            ("InvalidateRole", "RESOURCE_MISMATCH - [{'action': 'dynamodb:ListStreams', 'required_format': '*'}]"),
            # Lambda rejects a function in a VPC whose role has these rights on fewer than all resources.
            ("FunctionPolicy", "RESOURCE_STAR - ['ec2:AssignPrivateIpAddresses', "
                                  "'ec2:CreateNetworkInterface', 'ec2:DeleteNetworkInterface', "
                                  "'ec2:UnassignPrivateIpAddresses']")})

    def test_every_role_has_the_boundary_that_is_given(self):
        for choice in CHOICES:
            for name, role in of_type(deployed(**choice), "AWS::IAM::Role").items():
                self.assertEqual(role.get("PermissionsBoundary"), choice.get("PermissionsBoundary"), name)

    def test_there_is_no_managed_policy_of_aws_and_no_way_to_the_internet(self):
        for template in self.each():
            text = json.dumps(template)
            self.assertNotIn(":aws:policy", text)
            kinds = {resource["Type"] for resource in template["Resources"].values()}
            self.assertFalse(kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway",
                                      "AWS::EC2::Route", "AWS::EC2::EIP", "AWS::Lambda::Url"})
            for name, subnet in of_type(template, "AWS::EC2::Subnet").items():
                self.assertFalse(subnet.get("MapPublicIpOnLaunch", False), name)

    def test_nobody_but_the_functions_reaches_the_cache(self):
        for template in self.each():
            ingress = of_type(template, "AWS::EC2::SecurityGroupIngress")
            groups = of_type(template, "AWS::EC2::SecurityGroup")
            for name, group in groups.items():
                self.assertNotIn("SecurityGroupIngress", group, name)
                # A security group without rules lets all traffic out.
                self.assertTrue(group["SecurityGroupEgress"], name)
            if not groups:
                self.assertEqual(ingress, {})
                continue
            rule, = ingress.values()
            self.assertEqual((rule["FromPort"], rule["ToPort"]), (6379, 6380))
            self.assertEqual(rule["SourceSecurityGroupId"], {"Fn::GetAtt": ["FunctionSecurityGroup", "GroupId"]})
            vpcs = {json.dumps(group["VpcId"]) for group in groups.values()}
            self.assertEqual(len(vpcs), 1)
            self.assertEqual(groups["FunctionSecurityGroup"]["SecurityGroupEgress"], [{
                "Description": "To the cache, 6379 its primaries and 6380 its replicas",
                "IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6380,
                "DestinationSecurityGroupId": {"Fn::GetAtt": ["CacheSecurityGroup", "GroupId"]}}])
            for egress in of_type(template, "AWS::EC2::SecurityGroupEgress").values():
                self.assertEqual((egress["FromPort"], egress["ToPort"]), (443, 443))
                if of_type(template, "AWS::EC2::VPC"):
                    endpoint, = of_type(template, "AWS::EC2::VPCEndpoint").values()
                    self.assertEqual(endpoint["VpcEndpointType"], "Gateway")

    def test_whatever_grows_has_an_end_or_a_ceiling(self):
        for template in self.each():
            for name, group in of_type(template, "AWS::Logs::LogGroup").items():
                self.assertEqual(group["RetentionInDays"], 30, name)
            for table in of_type(template, "AWS::DynamoDB::Table").values():
                self.assertTrue(all(table["OnDemandThroughput"].values()))
            for cache in of_type(template, "AWS::ElastiCache::ServerlessCache").values():
                limits = cache["CacheUsageLimits"]
                self.assertTrue(limits["DataStorage"]["Maximum"] and limits["ECPUPerSecond"]["Maximum"])
                self.assertEqual(cache["SnapshotRetentionLimit"], 0)
            for queue in of_type(template, "AWS::SQS::Queue").values():
                self.assertEqual(queue["MessageRetentionPeriod"], 14 * 24 * 60 * 60)

    def test_both_routes_ask_for_the_same_authorization(self):
        for choice in CHOICES:
            scopes = choice.get("JwtScopes")
            schemes = {"NONE": [], "AWS_IAM": [{"iam": []}], "JWT": [{"jwt": scopes.split(",") if scopes else []}]}
            api, = of_type(deployed(**choice), "AWS::ApiGatewayV2::Api").values()
            routes = [path["x-amazon-apigateway-any-method"] for path in api["Body"]["paths"].values()]
            self.assertEqual(len(routes), 2)
            for route in routes:
                self.assertEqual(route["security"], schemes[choice["ApiAuthorization"]])
                for scheme in route["security"]:
                    self.assertLess(set(scheme), {*api["Body"]["components"]["securitySchemes"], ""})
                self.assertIn(":live/", str(route["x-amazon-apigateway-integration"]["uri"]))

    def test_the_functions_have_all_variables_and_what_is_unset_is_empty(self):
        for template in self.each():
            functions = of_type(template, "AWS::Lambda::Function")
            sets = {name: function["Environment"]["Variables"] for name, function in functions.items()}
            for function, variables in sets.items():
                own = {name for name in variables if name.startswith("RELEASE_CHECK_")}
                self.assertEqual(bool(own), function == "ReleaseCheckFunction")
                self.assertEqual(variables.keys() - own, sets["UsersFunction"].keys())
                for name, value in variables.items():
                    self.assertIsNot(value, None, name)
                    if "None" in str(value):
                        self.fail(f"{name} is {value}")


class DeployRole(unittest.TestCase):
    """Tests of .github/deploy-role.yaml."""

    def test_the_boundary_allows_what_the_roles_of_the_template_may_do_and_no_more(self):
        used = {action for choice in CHOICES for _, effect, actions, _ in statements(deployed(**choice))
                if effect == "Allow" for action in actions}
        boundary = load(".github/deploy-role.yaml")["Resources"]["Boundary"]["Properties"]
        self.assertEqual(set(boundary["PolicyDocument"]["Statement"][0]["Action"]), used)

    def test_github_deploys_one_stack_out_of_one_environment(self):
        resources = load(".github/deploy-role.yaml")["Resources"]
        role = resources["DeployRole"]["Properties"]
        trust, = role["AssumeRolePolicyDocument"]["Statement"]
        self.assertEqual(trust["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"],
                         {"Fn::Sub": "repo:${Repository}:environment:${Environment}"})
        for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
            self.assertNotIn("*", [statement["Resource"], statement["Action"]])
        # CloudFormation's own role creates no role without the boundary.
        making, = [statement for statement in resources["StackRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
                   if "iam:CreateRole" in statement["Action"]]
        self.assertEqual(making["Condition"], {"StringEquals": {"iam:PermissionsBoundary": {"Ref": "Boundary"}}})


class OneChoice(unittest.TestCase):
    """Tests of single parameters."""

    def variables(self, function="UsersFunction", **choice):
        template = deployed(**choice)
        return template["Resources"][function]["Properties"]["Environment"]["Variables"]

    def test_what_the_rules_refuse(self):
        table = {"UserStore": "dynamodb"}
        for choice, said in [
            (table, ["With UserStore=dynamodb the API needs ApiAuthorization=AWS_IAM or JWT, or anybody "
                     "could read the table"]),
            ({**table, "ApiAuthorization": "AWS_IAM"}, []),
            ({"CacheMode": "existing"}, ["CacheMode=existing needs RedisUrl", "CacheMode=existing needs SubnetIds",
                                         "CacheMode=existing needs SecurityGroupIds"]),
            ({**EXISTING, "SubnetIds": ""}, ["CacheMode=existing needs SubnetIds"]),
            (EXISTING, []),
            ({"ReleaseId": "unset"}, ["Deploy with make deploy, which computes ReleaseId; without it the alias would "
                                      "keep its old version"]),
            ({**EXISTING, "RedisIamUser": "alice"}, ["RedisIamUser and RedisIamCache go together"]),
            ({**EXISTING, "RedisIamCache": "shared"}, ["RedisIamUser and RedisIamCache go together"]),
            ({"SubnetIds": "subnet-1"}, ["SubnetIds with CacheMode=managed need SecurityGroupIds, or VpcId to make them in"]),
            ({"SecurityGroupIds": "sg-1"}, ["SecurityGroupIds and VpcId need SubnetIds"]),
            ({"VpcId": "vpc-1"}, ["SecurityGroupIds and VpcId need SubnetIds"]),
            ({"SubnetIds": "subnet-1", "VpcId": "vpc-1"}, []),
            ({"RedisPasswordSecret": SECRET}, ["RedisPasswordSecret needs CacheMode=existing, without RedisIamUser"]),
            ({**EXISTING, "RedisPasswordSecret": SECRET}, []),
            ({**EXISTING, "RedisPasswordSecret": SECRET, "RedisIamUser": "alice", "RedisIamCache": "shared"},
             ["RedisPasswordSecret needs CacheMode=existing, without RedisIamUser"]),
            ({"TableName": "people"}, ["TableName and StreamArn go together, with UserStore=dynamodb"]),
            ({**TABLE, "StreamArn": "", "ApiAuthorization": "AWS_IAM"},
             ["TableName and StreamArn go together, with UserStore=dynamodb"]),
            ({**TABLE, "ApiAuthorization": "AWS_IAM"}, []),
            ({"MonthlyBudgetUsd": 100}, ["MonthlyBudgetUsd needs AlarmEmail"]),
            ({"ApiAuthorization": "JWT"}, ["ApiAuthorization=JWT needs JwtIssuer and JwtAudience"]),
            ({"ApiAuthorization": "JWT", "JwtIssuer": "https://a.example", "JwtAudience": "b"}, []),
        ]:
            with self.subTest(**choice):
                self.assertEqual(refusals(**choice), said)
        self.assertEqual(transformed()["Rules"].keys(), load("template.yaml")["Rules"].keys())

    def test_what_the_patterns_refuse(self):
        patterns = {name: parameter["AllowedPattern"] for name, parameter in load("template.yaml")["Parameters"].items()
                    if "AllowedPattern" in parameter}
        for name, good, bad in [
            ("RedisUrl", ["", "redis://cache:6379", "valkeys://cache.example:6379/2"],
             ["rediss://user:password@cache:6379", "redis://:password@cache", "http://cache", "cache:6379"]),
            ("CacheNamespace", ["users", "a.b:c-d_e"], ["", "a b", "a*", "~x", "x" * 65]),
            ("CacheClientMaxAgeSeconds", ["", "0", "31536000"], ["-1", "1.5", "1m"]),
            ("PreviousVersion", ["none", "12"], ["", "live", "$LATEST"]),
            ("JwtIssuer", ["", "https://a.example"], ["http://a.example"]),
            ("AlarmEmail", ["", "oncall@example.org"], ["oncall"]),
            ("ReleaseId", ["0a1b"], ["", "a-b"]),
            ("FirstZoneId", ["", "use1-az2", "apne1-az4"], ["us-east-1a", "use1"]),
            ("RedisPasswordSecret", ["", SECRET], ["hunter2"]),
            ("StreamArn", ["", TABLE["StreamArn"]], ["people"]),
            ("ApiBasePath", ["", "/api", "/a/b"], ["api", "/api/", "/"]),
            ("VpcId", ["", "vpc-0123456789abcdef0"], ["main"]),
            ("AlarmTopicArn", ["", "arn:aws:sns:eu-west-1:123456789012:on-call"], ["on-call"]),
        ]:
            for value in good:
                self.assertTrue(re.fullmatch(patterns[name], value), f"{name}={value}")
            for value in bad:
                self.assertFalse(re.fullmatch(patterns[name], value), f"{name}={value}")

    def test_names_of_the_cache_are_in_lower_case_whatever_the_stack_is_called(self):
        resources = deployed()["Resources"]
        user = resources["CacheUser"]["Properties"]
        # As ElastiCache requires: 40 characters at most, starting with a letter, no two hyphens in a row.
        self.assertRegex(user["UserId"], r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
        self.assertLessEqual(len(user["UserId"]), 40)
        self.assertEqual(user["UserId"], user["UserName"], "IAM asks for that")
        self.assertEqual(resources["Cache"]["Properties"]["ServerlessCacheName"], {"Ref": "CacheUser"})
        self.assertEqual(resources["CacheUserGroup"]["Properties"]["UserGroupId"], {"Ref": "CacheUser"})
        self.assertEqual(user["AuthenticationMode"], {"Type": "iam"})

    def test_the_cache_lets_its_user_do_what_the_functions_do_and_nothing_else(self):
        access = deployed(CacheNamespace="people")["Resources"]["CacheUser"]["Properties"]["AccessString"]
        self.assertEqual(access.split(), ["on", "~people:*", "resetchannels", "-@all", "+get", "+set", "+del", "+eval",
                                          "+evalsha", "+type", "+getrange", "+mget", "+pttl", "+cluster|slots", "+asking"])

    def test_each_cache_gets_its_variables(self):
        managed = self.variables()
        self.assertEqual(managed["REDIS_URL"], {"Fn::Sub": "valkeys://${Cache.Endpoint.Address}:${Cache.Endpoint.Port}"})
        self.assertEqual((managed["REDIS_CLUSTER"], managed["REDIS_IAM_SERVERLESS"]), ("true", "true"))
        self.assertEqual((managed["REDIS_IAM_USER"], managed["REDIS_IAM_CACHE"]), ({"Ref": "CacheUser"}, {"Ref": "Cache"}))
        existing = self.variables(**EXISTING)
        self.assertEqual(existing["REDIS_URL"], EXISTING["RedisUrl"])
        self.assertEqual((existing["REDIS_CLUSTER"], existing["REDIS_IAM_USER"]), ("false", ""))
        self.assertEqual(self.variables(CacheMode="none", RedisUrl="redis://x")["REDIS_URL"], "")
        self.assertEqual(self.variables()["USERS_TABLE"], "")
        table = {"UserStore": "dynamodb", "ApiAuthorization": "AWS_IAM"}
        for function in ["UsersFunction", "InvalidateFunction"]:
            self.assertEqual(self.variables(function, **table)["USERS_TABLE"], {"Ref": "UsersTable"})

    def test_a_network_is_made_for_a_managed_cache_alone(self):
        for choice, network in [({}, True), (EXISTING, False), ({"CacheMode": "none"}, False)]:
            template = deployed(**choice)
            self.assertEqual(bool(of_type(template, "AWS::EC2::VPC")), network)
            self.assertEqual("Cache" in template["Resources"], network)
        function = deployed(**EXISTING)["Resources"]["UsersFunction"]["Properties"]
        self.assertEqual(function["VpcConfig"], {"SubnetIds": EXISTING["SubnetIds"].split(","),
                                                 "SecurityGroupIds": [EXISTING["SecurityGroupIds"]]})
        self.assertNotIn("VpcConfig", deployed(CacheMode="none")["Resources"]["UsersFunction"]["Properties"])

    def test_rights_end_at_this_cache_this_table_and_this_stream(self):
        template = deployed(UserStore="dynamodb", ApiAuthorization="AWS_IAM")
        allowed = {(name, action): resources for name, effect, actions, resources in statements(template)
                   if effect == "Allow" for action in actions}
        arn = lambda resource, attribute="Arn": {"Fn::GetAtt": [resource, attribute]}
        self.assertEqual(allowed["FunctionPolicy", "elasticache:Connect"], [arn("Cache", "ARN"), arn("CacheUser")])
        self.assertEqual(allowed["UsersRole", "dynamodb:GetItem"], [arn("UsersTable")])
        self.assertEqual([action for name, action in allowed if name == "UsersRole"],
                         ["logs:CreateLogStream", "logs:PutLogEvents", "dynamodb:GetItem"])
        self.assertEqual(allowed["InvalidateRole", "dynamodb:GetRecords"], [arn("UsersTable", "StreamArn")])
        self.assertEqual(allowed["InvalidateRole", "sqs:SendMessage"], [arn("FailureQueue")])
        shared = {**EXISTING, "RedisIamUser": "alice", "RedisIamCache": "shared"}
        for serverless, kind in [("true", "serverlesscache"), ("false", "replicationgroup")]:
            connect = [resources for _, _, actions, resources
                       in statements(deployed(**shared, RedisIamServerless=serverless))
                       if actions == ["elasticache:Connect"]]
            beginning = "arn:aws:elasticache:eu-west-1:123456789012:"
            self.assertEqual(connect, [[f"{beginning}{kind}:shared", f"{beginning}user:alice"]])

    def test_the_table_outlives_the_stack_and_has_a_stream_that_is_listened_to(self):
        resources = deployed(UserStore="dynamodb", ApiAuthorization="AWS_IAM", InvalidationMaxAgeSeconds=720)["Resources"]
        table = resources["UsersTable"]
        self.assertEqual((table["DeletionPolicy"], table["UpdateReplacePolicy"]), ("Retain", "Retain"))
        self.assertEqual(table["Properties"]["DeletionProtectionEnabled"], "true")
        self.assertTrue(table["Properties"]["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"])
        mapping = resources["InvalidateFunctionChanges"]["Properties"]
        self.assertEqual(mapping["FunctionResponseTypes"], ["ReportBatchItemFailures"])
        self.assertTrue(mapping["BisectBatchOnFunctionError"])
        self.assertEqual(mapping["MaximumRecordAgeInSeconds"], 720)
        self.assertEqual(mapping["DestinationConfig"],
                         {"OnFailure": {"Destination": {"Fn::GetAtt": ["FailureQueue", "Arn"]}}})
        # Nothing to invalidate, or no cache to invalidate it in.
        for choice in [{}, {"UserStore": "dynamodb", "ApiAuthorization": "AWS_IAM", "CacheMode": "none"}]:
            self.assertNotIn("InvalidateFunction", deployed(**choice)["Resources"])

    def test_your_table_is_used_and_none_is_made(self):
        template = deployed(**TABLE, ApiAuthorization="AWS_IAM")
        self.assertEqual(of_type(template, "AWS::DynamoDB::Table"), {})
        for function in ["UsersFunction", "InvalidateFunction"]:
            self.assertEqual(self.variables(function, **TABLE, ApiAuthorization="AWS_IAM")["USERS_TABLE"], "people")
        mapping = template["Resources"]["InvalidateFunctionChanges"]["Properties"]
        self.assertEqual(mapping["EventSourceArn"], TABLE["StreamArn"])
        arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/people"
        allowed = {(name, action): resources for name, _, actions, resources in statements(template) for action in actions}
        self.assertEqual(allowed["UsersRole", "dynamodb:GetItem"], [arn])
        self.assertEqual(allowed["InvalidateRole", "dynamodb:GetRecords"], [TABLE["StreamArn"]])
        self.assertEqual(allowed["InvalidateRole", "dynamodb:ListStreams"], [f"{arn}/stream/*"])
        endpoint, = of_type(template, "AWS::EC2::VPCEndpoint").values()
        self.assertEqual(endpoint["PolicyDocument"]["Statement"][0]["Resource"], arn)

    def test_a_managed_cache_goes_into_your_network(self):
        template = deployed(**NETWORK)
        for kind in ["VPC", "Subnet", "SecurityGroup", "SecurityGroupIngress", "VPCEndpoint"]:
            self.assertEqual(of_type(template, f"AWS::EC2::{kind}"), {})
        subnets, groups = NETWORK["SubnetIds"].split(","), [NETWORK["SecurityGroupIds"]]
        cache = template["Resources"]["Cache"]["Properties"]
        self.assertEqual((cache["SubnetIds"], cache["SecurityGroupIds"]), (subnets, groups))
        function = template["Resources"]["UsersFunction"]["Properties"]
        self.assertEqual(function["VpcConfig"], {"SubnetIds": subnets, "SecurityGroupIds": groups})

        template = deployed(SubnetIds=NETWORK["SubnetIds"], VpcId="vpc-1")
        groups = of_type(template, "AWS::EC2::SecurityGroup")
        self.assertEqual({group["VpcId"] for group in groups.values()}, {"vpc-1"})
        function = template["Resources"]["UsersFunction"]["Properties"]
        self.assertEqual(function["VpcConfig"], {"SubnetIds": subnets, "SecurityGroupIds": [{"Ref": "FunctionSecurityGroup"}]})

    def test_a_zone_is_named_by_its_id(self):
        subnets = of_type(deployed(FirstZoneId="euw1-az3"), "AWS::EC2::Subnet")
        self.assertEqual(subnets["FirstSubnet"]["AvailabilityZoneId"], "euw1-az3")
        self.assertNotIn("AvailabilityZone", subnets["FirstSubnet"])
        self.assertNotIn("AvailabilityZoneId", subnets["SecondSubnet"])
        self.assertIn("AvailabilityZone", subnets["SecondSubnet"])

    def test_the_password_of_redis_is_in_no_variable(self):
        variables = self.variables(**EXISTING, RedisPasswordSecret=SECRET)
        self.assertEqual(variables["REDIS_PASSWORD_SECRET"], SECRET)
        self.assertNotIn("resolve:", json.dumps(load("template.yaml")))
        reads = [resources for _, _, actions, resources in statements(deployed(**EXISTING, RedisPasswordSecret=SECRET))
                 if actions == ["secretsmanager:GetSecretValue"]]
        self.assertEqual(reads, [[SECRET]])

    def test_what_is_turned_off_is_not_there(self):
        on, off = deployed(), deployed(Tracing="false", AccessLog="false", CacheMode="none")
        stage, = of_type(off, "AWS::ApiGatewayV2::Stage").values()
        self.assertNotIn("AccessLogSettings", stage)
        self.assertNotIn("ApiLogGroup", off["Resources"])
        for template, mode in [(on, "Active"), (off, "PassThrough")]:
            for name, function in of_type(template, "AWS::Lambda::Function").items():
                self.assertEqual(function["TracingConfig"], {"Mode": mode}, name)
        self.assertNotIn("xray", json.dumps(off))
        self.assertNotIn("FunctionPolicy", off["Resources"], "a policy without statements")
        self.assertEqual(self.variables(CacheEnabled="false")["CACHE_ENABLED"], "false")
        self.assertEqual(self.variables(ApiBasePath="/api")["API_BASE_PATH"], "/api")

    def test_the_gateway_answers_for_the_origins_that_are_given(self):
        def api(**choice):
            return of_type(deployed(**choice), "AWS::ApiGatewayV2::Api")["HttpApi"]["Body"]
        self.assertNotIn("x-amazon-apigateway-cors", api())
        self.assertNotIn("options", api()["paths"]["/users/{id}"])
        body = api(CorsAllowOrigins="https://a.example,https://b.example", ApiAuthorization="AWS_IAM")
        self.assertEqual(body["x-amazon-apigateway-cors"]["allowOrigins"], ["https://a.example", "https://b.example"])
        # A browser does not sign preflight requests.
        self.assertEqual(body["paths"]["/users/{id}"]["options"]["security"], [])

    def test_nothing_drifts_and_nothing_is_undeclared(self):
        template = deployed()
        stage, = of_type(template, "AWS::ApiGatewayV2::Stage").values()
        destination = stage["AccessLogSettings"]["DestinationArn"]
        self.assertEqual(destination, {"Fn::Sub": "arn:aws:logs:eu-west-1:123456789012:log-group:${ApiLogGroup}"})
        for path, item in template["Resources"]["HttpApi"]["Properties"]["Body"]["paths"].items():
            for method in item.values():
                declared = [parameter["name"] for parameter in method.get("parameters", [])]
                self.assertEqual(declared, re.findall(r"\{(\w+)\}", path))

    def test_another_release_is_another_version(self):
        def version(release):
            resources = transformed(ReleaseId=release)["Resources"]
            return {name for name, resource in resources.items() if resource["Type"] == "AWS::Lambda::Version"}
        self.assertEqual(version("one"), version("one"))
        self.assertNotEqual(version("one"), version("two"))
        # Lambda publishes no version of an unchanged function.
        descriptions = {deployed(ReleaseId=release)["Resources"]["UsersFunction"]["Properties"]["Description"]
                        for release in ["one", "two"]}
        self.assertEqual(len(descriptions), 2)
        # make rollback reads it there.
        published, = of_type(deployed(PreviousVersion="7"), "AWS::Lambda::Version").values()
        self.assertEqual(published["Description"], "release one, after version 7")

    def test_a_release_depends_on_what_reaches_the_users_function_and_on_nothing_else(self):
        """`make deploy` computes ReleaseId from these parameters, because CloudFormation would not see that they
        changed."""
        base = {"UserStore": "dynamodb", "ApiAuthorization": "AWS_IAM"}
        others = {
            "AlarmEmail": "a@example.org", "AlarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:on-call",
            "ApiAuthorization": "JWT", "PermissionsBoundary": "arn:aws:iam::123456789012:policy/b", "TableName": "people",
            "StreamArn": TABLE["StreamArn"], "SubnetIds": "subnet-1", "SecurityGroupIds": "sg-1", "VpcId": "vpc-1",
            "FirstZoneId": "euw1-az1", "SecondZoneId": "euw1-az2", "CacheMode": "none", "UserStore": "embedded"}

        def function(**choice):
            resources = deployed(**choice)["Resources"]
            properties = dict(resources["UsersFunction"]["Properties"])
            for name in ["ReservedConcurrentExecutions", "Description"]:
                properties.pop(name, None)
            # Another zone is another subnet under the same name, and so another network for the function.
            networks = [resources.get(name) for name in ["FirstSubnet", "SecondSubnet", "FunctionSecurityGroup"]]
            return json.dumps([properties, networks], sort_keys=True)

        template = load("template.yaml")
        reach = set()
        for name, parameter in template["Parameters"].items():
            default = parameter["Default"]
            allowed = [value for value in parameter.get("AllowedValues", []) if value != base.get(name, default)]
            other = others.get(name) or (allowed[0] if allowed else 7 if parameter["Type"] == "Number" else "other")
            for around in [base, {**base, **EXISTING}, {**base, "SubnetIds": "subnet-2"}]:
                if name != "ReleaseId" and function(**around) != function(**{**around, name: other}):
                    reach.add(name)
        computed = set(release_parts((ROOT / "template.yaml").read_text())[1])
        self.assertEqual(computed, reach)

    def test_alarms_roll_a_release_back_unless_it_is_to_cure_them(self):
        def group(**choice):
            return deployed(**choice)["Resources"]["UsersFunctionDeploymentGroup"]["Properties"]
        self.assertEqual([alarm["Name"]["Ref"] for alarm in group()["AlarmConfiguration"]["Alarms"]],
                         ["ErrorsAlarm", "FunctionErrorsAlarm", "LatencyAlarm"])
        self.assertIn("DEPLOYMENT_STOP_ON_ALARM", group()["AutoRollbackConfiguration"]["Events"])
        self.assertEqual(group(DeploymentAlarms="false")["AlarmConfiguration"], {})

    def test_a_new_version_is_asked_before_it_gets_requests(self):
        resources = deployed()["Resources"]
        alias = transformed()["Resources"]["UsersFunctionAliaslive"]
        self.assertEqual(alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["BeforeAllowTrafficHook"],
                         {"Ref": "ReleaseCheckFunction"})
        check = resources["ReleaseCheckFunction"]["Properties"]
        self.assertNotIn("VpcConfig", check)
        variables = check["Environment"]["Variables"]
        self.assertEqual(variables["RELEASE_CHECK_VERSION"], {"Ref": "UsersFunctionVersionone"})
        self.assertEqual(variables["RELEASE_CHECK_CACHE"], "true")
        for cure in [{"DeploymentAlarms": "false"}, {"CacheEnabled": "false"}]:
            self.assertEqual(self.variables("ReleaseCheckFunction", **cure)["RELEASE_CHECK_CACHE"], "false")
        without = transformed(DeploymentByCodeDeploy="false")["Resources"]
        self.assertNotIn("UpdatePolicy", without["UsersFunctionAliaslive"])

    def test_each_alarm_tells_somebody_and_links_to_its_section(self):
        arn = "arn:aws:sns:eu-west-1:123456789012:on-call"
        resources = deployed(AlarmEmail="oncall@example.org", AlarmTopicArn=arn, UserStore="dynamodb",
                             ApiAuthorization="AWS_IAM", RunbookUrl="https://wiki.example/runbook",
                             CacheAuditRate="0.001")["Resources"]
        alarms = {name: resource["Properties"] for name, resource in resources.items()
                  if resource["Type"] == "AWS::CloudWatch::Alarm"}
        self.assertEqual(sorted(alarms), [
            "AuditStaleAlarm", "CacheEcpuAlarm", "CacheFaultsAlarm", "CacheStorageAlarm", "CacheThrottlesAlarm", "ErrorsAlarm",
            "FunctionErrorsAlarm", "FunctionThrottlesAlarm", "InvalidationAgeAlarm", "InvalidationFailuresAlarm",
            "LatencyAlarm", "TableThrottlesAlarm"])
        self.assertNotIn("AuditStaleAlarm", deployed()["Resources"])
        sections = re.findall(r"^### (\w+Alarm)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
        self.assertEqual(sorted(sections), sorted(alarms), "one section of docs/operations.md for each alarm")
        for name, alarm in alarms.items():
            self.assertEqual(alarm["TreatMissingData"], "notBreaching", name)
            self.assertTrue(alarm["AlarmDescription"].endswith(f"see https://wiki.example/runbook#{name.lower()}"), name)
            # An invalidation that Lambda has given up on is no reason to wake anyone.
            notified = [{"Ref": "AlarmTopic"}, arn] if name != "InvalidationFailuresAlarm" else None
            self.assertEqual(alarm.get("AlarmActions"), notified, name)
            self.assertEqual(alarm.get("OKActions"), notified, name)

    def test_a_limit_that_is_near_is_an_alarm(self):
        resources = deployed(CacheMaxEcpuPerSecond=5000, CacheMaxStorageGb=2)["Resources"]
        for name, expression in [("CacheEcpuAlarm", "100 * used / PERIOD(used) / 5000"),
                                 ("CacheStorageAlarm", "100 * used / 1000000000 / 2")]:
            alarm = resources[name]["Properties"]
            self.assertEqual((alarm["Metrics"][0]["Expression"], alarm["Threshold"]), (expression, 80))

    def test_the_saved_queries_are_those_of_the_documentation(self):
        documented = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/logs.md").read_text(), re.DOTALL)
        saved = of_type(deployed(), "AWS::Logs::QueryDefinition")
        self.assertEqual([query["QueryString"] for query in saved.values()], documented)
        outputs = deployed()["Outputs"]
        self.assertEqual(outputs["SavedQueries"]["Value"], {"Fn::Join": [" ", [{"Ref": name} for name in saved]]})

    def test_a_budget_writes_to_whom_alarms_write(self):
        self.assertEqual(of_type(deployed(), "AWS::Budgets::Budget"), {})
        budget, = of_type(deployed(MonthlyBudgetUsd=150, AlarmEmail="a@example.org"), "AWS::Budgets::Budget").values()
        self.assertEqual(budget["Budget"]["BudgetLimit"], {"Amount": 150, "Unit": "USD"})
        addresses = {subscriber["Address"] for notification in budget["NotificationsWithSubscribers"]
                     for subscriber in notification["Subscribers"]}
        self.assertEqual(addresses, {"a@example.org"})

    def test_alarms_and_dashboard_look_for_metrics_that_there_are(self):
        """`docs/logs.md` lists the metrics of the functions, and another test checks it."""
        documented = dict(re.findall(r"^\| `?([A-Z][A-Za-z`, ]+)`? \| \w+ \| (`service`(?:, `outcome`)?) \|",
                                     (ROOT / "docs/logs.md").read_text(), re.MULTILINE))
        there = {(name, dimensions.count("`") // 2) for names, dimensions in documented.items()
                 for name in re.findall(r"[A-Za-z]+", names)}
        self.assertIn(("Hits", 1), there)

        dashboard, = of_type({"Resources": load("dashboard.yaml")["Resources"]}, "AWS::CloudWatch::Dashboard").values()
        looked_for = set()
        body, values = dashboard["DashboardBody"]["Fn::Sub"]
        _, with_cache, without_cache = values["CacheWidgets"]["Fn::If"]
        self.assertEqual(dashboard["DashboardName"], {"Fn::Sub": "${Name}-${AWS::Region}"})
        self.assertEqual(len(json.loads(body.replace("${CacheWidgets}", without_cache))["widgets"]), 8)
        widgets = json.loads(body.replace("${CacheWidgets}", with_cache["Fn::Sub"]))["widgets"]
        for metric in ["ElastiCacheProcessingUnits", "ThrottledCmds", "BytesUsedForCache", "Evictions"]:
            self.assertIn(metric, json.dumps(widgets[8:]))
        for widget in widgets:
            for metric in widget["properties"]["metrics"]:
                if metric[0] == "ResponseBoost":
                    names = [part for part in metric if isinstance(part, str)]
                    self.assertEqual(names[2:4], ["service", "${Name}"])
                    looked_for.add((names[1], len(names) // 2 - 1))
        self.assertGreaterEqual(len(looked_for), 10)
        alarm = deployed()["Resources"]["CacheFaultsAlarm"]["Properties"]
        variables = self.variables()
        self.assertEqual(alarm["Namespace"], variables["POWERTOOLS_METRICS_NAMESPACE"])
        self.assertEqual(alarm["Dimensions"], [{"Name": "service", "Value": variables["POWERTOOLS_SERVICE_NAME"]}])
        self.assertLessEqual(looked_for | {(alarm["MetricName"], 1)}, there)

    def test_every_parameter_is_described_and_in_a_group(self):
        template = load("template.yaml")
        groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        grouped = [name for group in groups for name in group["Parameters"]]
        self.assertEqual(sorted(grouped), sorted(template["Parameters"]))
        for name, parameter in template["Parameters"].items():
            self.assertTrue(parameter["Description"], name)


if __name__ == "__main__":
    unittest.main()
