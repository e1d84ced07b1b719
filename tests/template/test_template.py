"""What is deployed, for every choice of parameters that matters."""

import itertools
import json
import re
import unittest

from cfnlint.api import lint

from support import ROOT, deployed, load, refusals, transformed

EXISTING = {"CacheMode": "existing", "RedisUrl": "rediss://cache.example:6379",
            "SubnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
            "SecurityGroupIds": "sg-0123456789abcdef0"}
CACHES = [
    {"CacheMode": "managed"},
    {"CacheMode": "managed", "FirstZone": "eu-west-1a", "SecondZone": "eu-west-1c"},
    EXISTING,
    {**EXISTING, "RedisIamUser": "alice", "RedisIamCache": "shared"},
    {**EXISTING, "RedisIamUser": "alice", "RedisIamCache": "shared", "RedisIamServerless": "false"},
    {"CacheMode": "none"},
]
STORES = [{"UserStore": "embedded"}, {"UserStore": "dynamodb"}]
ACCESS = [
    {"ApiAuthorization": "NONE"},
    {"ApiAuthorization": "AWS_IAM"},
    {"ApiAuthorization": "JWT", "JwtIssuer": "https://issuer.example", "JwtAudience": "users"},
]
OPERATIONS = [
    {"DeploymentType": "AllAtOnce"},
    {"AlarmEmail": "oncall@example.org", "ReservedConcurrency": 100},
]
ALL = [{**cache, **store, **access, **operations} for cache, store, access, operations
       in itertools.product(CACHES, STORES, ACCESS, OPERATIONS)]
CHOICES = [choice for choice in ALL if not refusals(**choice)]


def findings(template, *ignored):
    # W2001, W3010: parameters, zones among them, that SAM alone has used or that are put in by now.
    found = lint(json.dumps(template), regions=["eu-west-1"])
    return [str(match) for match in found if match.rule.id not in ["W2001", "W3010", *ignored]]


def of_type(template, kind):
    return {name: resource["Properties"] for name, resource in template["Resources"].items()
            if resource["Type"] == kind}


def statements(template):
    """All that roles and policies allow and deny, with the name of the resource that says so."""
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


class Choices(unittest.TestCase):
    """Of all choices."""

    def each(self):
        for choice in CHOICES:
            with self.subTest(**choice):
                yield deployed(**choice)

    def test_there_are_choices_and_some_are_refused(self):
        self.assertEqual(len(ALL), 72)
        # NONE before a table: 6 caches, 2 ways to operate.
        self.assertEqual(len(CHOICES), 60)

    def test_cfn_lint_has_nothing_against_what_is_deployed(self):
        # How it is operated is the same everywhere, and this takes seconds for each.
        for choice in CHOICES[::len(OPERATIONS)]:
            with self.subTest(**choice):
                self.assertEqual(findings(deployed(**choice)), [])

    def test_cfn_lint_has_nothing_against_what_sam_makes_of_it(self):
        # Circles between resources are seen here alone. W1028: what is asked for in the variables of both
        # functions is always so for one of them.
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
        # X-Ray and network interfaces have no names before; CloudWatch shows all alarms or none; the
        # versions of one function; the streams of one table; keys of one table, to which roles add.
        self.assertEqual({(name, action) for name, action, _ in everything}, {
            ("FunctionPolicy", "xray:PutTelemetryRecords"),
            ("FunctionPolicy", "xray:PutTraceSegments"),
            ("FunctionPolicy", "ec2:AssignPrivateIpAddresses"),
            ("FunctionPolicy", "ec2:CreateNetworkInterface"),
            ("FunctionPolicy", "ec2:DeleteNetworkInterface"),
            ("FunctionPolicy", "ec2:DescribeNetworkInterfaces"),
            ("FunctionPolicy", "ec2:DescribeSubnets"),
            ("FunctionPolicy", "ec2:UnassignPrivateIpAddresses"),
            ("DeploymentRole", "cloudwatch:DescribeAlarms"),
            ("DeploymentRole", "lambda:GetAlias"),
            ("DeploymentRole", "lambda:GetProvisionedConcurrencyConfig"),
            ("DeploymentRole", "lambda:UpdateAlias"),
            ("InvalidateRole", "dynamodb:ListStreams"),
        })

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
                # Without any rule a group lets everything out.
                self.assertTrue(group["SecurityGroupEgress"], name)
            if not groups:
                self.assertEqual(ingress, {})
                continue
            rule, = ingress.values()
            self.assertEqual((rule["FromPort"], rule["ToPort"]), (6379, 6380))
            self.assertEqual(rule["SourceSecurityGroupId"], {"Fn::GetAtt": ["FunctionSecurityGroup", "GroupId"]})
            self.assertEqual(groups["FunctionSecurityGroup"]["SecurityGroupEgress"], [{
                "Description": "To the cache, 6379 its primaries and 6380 its replicas",
                "IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6380,
                "DestinationSecurityGroupId": {"Fn::GetAtt": ["CacheSecurityGroup", "GroupId"]}}])
            for egress in of_type(template, "AWS::EC2::SecurityGroupEgress").values():
                self.assertEqual((egress["FromPort"], egress["ToPort"]), (443, 443))
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
        schemes = {"NONE": [], "AWS_IAM": [{"iam": []}], "JWT": [{"jwt": []}]}
        for choice in CHOICES:
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
            sets = [function["Environment"]["Variables"] for function in of_type(template, "AWS::Lambda::Function").values()]
            for variables in sets:
                self.assertEqual(variables.keys(), sets[0].keys())
                for name, value in variables.items():
                    self.assertIsNot(value, None, name)
                    if "None" in str(value):
                        self.fail(f"{name} is {value}")


class OneChoice(unittest.TestCase):
    """Of the parameters one by one."""

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
            ({"ReleaseId": "unset"}, ["Deploy with make deploy, which works out ReleaseId; without it the alias would "
                                      "keep its old version"]),
            ({**EXISTING, "RedisIamUser": "alice"}, ["RedisIamUser and RedisIamCache go together"]),
            ({**EXISTING, "RedisIamCache": "shared"}, ["RedisIamUser and RedisIamCache go together"]),
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
            ("JwtIssuer", ["", "https://a.example"], ["http://a.example"]),
            ("AlarmEmail", ["", "oncall@example.org"], ["oncall"]),
            ("ReleaseId", ["0a1b"], ["", "a-b"]),
        ]:
            for value in good:
                self.assertTrue(re.fullmatch(patterns[name], value), f"{name}={value}")
            for value in bad:
                self.assertFalse(re.fullmatch(patterns[name], value), f"{name}={value}")

    def test_names_of_the_cache_are_in_lower_case_whatever_the_stack_is_called(self):
        resources = deployed()["Resources"]
        user = resources["CacheUser"]["Properties"]
        # As ElastiCache has them: 40 characters at most, a letter first, no two hyphens in a row.
        self.assertRegex(user["UserId"], r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
        self.assertLessEqual(len(user["UserId"]), 40)
        self.assertEqual(user["UserId"], user["UserName"], "IAM asks for that")
        self.assertEqual(resources["Cache"]["Properties"]["ServerlessCacheName"], {"Ref": "CacheUser"})
        self.assertEqual(resources["CacheUserGroup"]["Properties"]["UserGroupId"], {"Ref": "CacheUser"})
        self.assertEqual(user["AuthenticationMode"], {"Type": "iam"})

    def test_the_cache_lets_its_user_do_what_the_functions_do_and_nothing_else(self):
        access = deployed(CacheNamespace="people")["Resources"]["CacheUser"]["Properties"]["AccessString"]
        self.assertEqual(access.split(), ["on", "~people:*", "resetchannels", "-@all", "+get", "+set", "+del", "+eval",
                                          "+evalsha", "+type", "+getrange", "+cluster|slots", "+asking"])

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
        # Nothing to invalidate, or nowhere to.
        for choice in [{}, {"UserStore": "dynamodb", "ApiAuthorization": "AWS_IAM", "CacheMode": "none"}]:
            self.assertNotIn("InvalidateFunction", deployed(**choice)["Resources"])

    def test_another_release_is_another_version(self):
        def version(release):
            resources = transformed(ReleaseId=release)["Resources"]
            return {name for name, resource in resources.items() if resource["Type"] == "AWS::Lambda::Version"}
        self.assertEqual(version("one"), version("one"))
        self.assertNotEqual(version("one"), version("two"))

    def test_alarms_roll_a_release_back_and_tell_somebody(self):
        resources = deployed(AlarmEmail="oncall@example.org", UserStore="dynamodb", ApiAuthorization="AWS_IAM")["Resources"]
        alarms = {name: resource["Properties"] for name, resource in resources.items()
                  if resource["Type"] == "AWS::CloudWatch::Alarm"}
        self.assertEqual(sorted(alarms), ["CacheFaultsAlarm", "ErrorsAlarm", "FunctionErrorsAlarm", "InvalidationAgeAlarm",
                                          "InvalidationFailuresAlarm", "LatencyAlarm"])
        for name, alarm in alarms.items():
            self.assertEqual(alarm["AlarmActions"], [{"Ref": "AlarmTopic"}], name)
            self.assertEqual(alarm["TreatMissingData"], "notBreaching", name)
        group = resources["UsersFunctionDeploymentGroup"]["Properties"]
        self.assertEqual([alarm["Name"]["Ref"] for alarm in group["AlarmConfiguration"]["Alarms"]],
                         ["ErrorsAlarm", "FunctionErrorsAlarm", "LatencyAlarm"])
        self.assertIn("DEPLOYMENT_STOP_ON_ALARM", group["AutoRollbackConfiguration"]["Events"])
        operations = (ROOT / "docs/operations.md").read_text()
        for name in alarms:
            self.assertIn(f"`{name}`", operations, "an alarm that docs/operations.md does not explain")

    def test_alarms_and_dashboard_look_for_metrics_that_there_are(self):
        """`docs/logs.md` lists those of the functions, and a test of them holds it to that."""
        documented = dict(re.findall(r"^\| `?([A-Z][A-Za-z`, ]+)`? \| \w+ \| (`service`(?:, `outcome`)?) \|",
                                     (ROOT / "docs/logs.md").read_text(), re.MULTILINE))
        there = {(name, dimensions.count("`") // 2) for names, dimensions in documented.items()
                 for name in re.findall(r"[A-Za-z]+", names)}
        self.assertIn(("Hits", 1), there)

        dashboard, = of_type({"Resources": load("dashboard.yaml")["Resources"]}, "AWS::CloudWatch::Dashboard").values()
        looked_for = set()
        for widget in json.loads(dashboard["DashboardBody"]["Fn::Sub"])["widgets"]:
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
