"""What the make targets do with the deployed stack besides SAM.

usage: stack.py CONFIG COMMAND [ARGUMENT ...]

  outputs               its outputs, as lines for a shell
  output NAME           one of them
  check FILE [NAME=VALUE ...]
                        before a deployment with the parameters in FILE, of which these were asked for by hand: what
                        stands in its way
  moved                 the version that the stack takes for live, if somebody has moved the alias
  previous FILE         writes into FILE, the parameters of a deployment, which version was live before its release
  left                  after a deployment or a deletion: what CloudFormation could not delete
  tables                the tables that outlive it
  rollback [VERSION]    the alias back to VERSION, or to the version that was live before the release
  set NAME=VALUE ...    an update by a few parameters, without a build, alarms and CodeDeploy
  prune                 deletes the versions that get no requests
  credentials           those that AWS tools find, whatever kind of profile has them, as lines for a shell

The stack is the one of CONFIG in samconfig.toml, or STACK.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
import shlex
import sys

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from parameters import Refused, environment

# How to delete what is left of a network, in the order that AWS requires.
DELETIONS = {
    "AWS::EC2::SecurityGroup": "aws ec2 delete-security-group --group-id",
    "AWS::EC2::Subnet": "aws ec2 delete-subnet --subnet-id",
    "AWS::EC2::RouteTable": "aws ec2 delete-route-table --route-table-id",
    "AWS::EC2::VPC": "aws ec2 delete-vpc --vpc-id",
}

# What a release consists of, in Lambda's description of a version.
PARTS_OF_A_RELEASE = ["CodeSha256", "Environment", "MemorySize", "Timeout", "TracingConfig", "VpcConfig"]


class Stack:
    def __init__(self, config):
        settings = environment(config)
        self.config = config
        self.name = os.environ.get("STACK") or settings["global"]["parameters"]["stack_name"]
        self.session = Session()
        region = settings["deploy"]["parameters"].get("region") or os.environ.get("AWS_REGION")
        self.region = region or self.session.get_config_variable("region")

    @functools.cached_property
    def cloudformation(self):
        return self.client("cloudformation")

    def client(self, service):
        return self.session.create_client(service, region_name=self.region)

    def make(self, target):
        """The command with which the user runs a target for this stack."""
        stack = f" STACK={self.name}" if os.environ.get("STACK") else ""
        return f"make {target}{stack}" + (f" CONFIG={self.config}" if self.config != "default" else "")

    def described(self):
        """CloudFormation's description of the stack; None if it does not exist."""
        try:
            return self.cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise

    def existing(self):
        described = self.described()
        if described is None:
            raise Refused(f"no stack {self.name} in {self.region}; is it another region (AWS_REGION)?\n"
                          f"  {self.make('deploy')} makes it")
        return described

    def outputs(self):
        return {output["OutputKey"]: output["OutputValue"] for output in self.existing().get("Outputs", [])}

    def parameters(self):
        return {parameter["ParameterKey"]: parameter["ParameterValue"]
                for parameter in (self.described() or {}).get("Parameters", [])}

    def resources(self, kind):
        """The physical ids of its resources of a type."""
        pages = self.cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.name)
        return [resource["PhysicalResourceId"] for page in pages for resource in page["StackResourceSummaries"]
                if resource["ResourceType"] == kind and resource.get("PhysicalResourceId")
                and resource["ResourceStatus"] != "DELETE_COMPLETE"]

    def failures(self):
        """The failure events since its last operation began, oldest first."""
        found = []
        pages = self.cloudformation.get_paginator("describe_stack_events").paginate(StackName=self.name)
        for event in (event for page in pages for event in page["StackEvents"]):
            status = event["ResourceStatus"]
            if status.endswith("_FAILED") and "cancelled" not in event.get("ResourceStatusReason", "").lower():
                found.insert(0, event)
            if event["LogicalResourceId"] == self.name and status in [
                    "CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"]:
                break
        return found

    def reasons(self):
        return "".join(f"\n  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', event['ResourceStatus'])}"
                       for event in self.failures() if event["LogicalResourceId"] != self.name)

    def tables(self):
        return self.resources("AWS::DynamoDB::Table")

    def function(self):
        return self.outputs()["UsersFunction"]

    def alias(self):
        return self.client("lambda").get_alias(FunctionName=self.function(), Name="live")

    def live(self):
        """The version that gets the requests; None before the first deployment."""
        if self.described() is None or "UsersFunction" not in self.outputs():
            return None
        return self.alias()["FunctionVersion"]

    def moved(self):
        """The version that CloudFormation considers live, if the alias points to another one."""
        live = self.live()
        if live is None:
            return None
        believed = {arn.rsplit(":", 1)[1] for arn in self.resources("AWS::Lambda::Version")}
        return None if live in believed or not believed else max(believed, key=int)


def say(*lines):
    print(*lines, sep="\n", file=sys.stderr)


def delete_table(name):
    return [f"  aws dynamodb update-table --table-name {name} --no-deletion-protection-enabled",
            f"  aws dynamodb delete-table --table-name {name}"]


def outputs(stack):
    # Some AWS tools know only the first of these names of a region, others only the second.
    also = {"StackName": stack.name, "AWS_REGION": stack.region, "AWS_DEFAULT_REGION": stack.region}
    for name, value in {**stack.outputs(), **also}.items():
        print(f"export {name}={shlex.quote(value)}")


def output(stack, name):
    print(stack.outputs().get(name, ""))


def check(stack, file, *given):
    described = stack.described()
    if described is None:
        return
    status = described["StackStatus"]
    name, destroy, deploy = stack.name, stack.make("destroy"), stack.make("deploy")
    if status in ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"]:
        kept = "".join(f"\nThe table {table} is left of it; with no users in it, delete it, too:\n"
                       + "\n".join(delete_table(table)) for table in stack.tables())
        began = "deletion" if status == "DELETE_FAILED" else "first deployment"
        raise Refused(f"the {began} of {name} failed ({status}), and such a stack can only be deleted:"
                      f"{stack.reasons()}\nFix what it says, then:\n  {destroy}\n  {deploy}{kept}")
    if status == "UPDATE_ROLLBACK_FAILED":
        failed = [event["LogicalResourceId"] for event in stack.failures() if event["LogicalResourceId"] != name]
        skipped = " ".join(dict.fromkeys(failed))
        raise Refused(f"the last deployment of {name} failed, and so did the way back ({status}):{stack.reasons()}\n"
                      f"Fix what it says, then:\n"
                      f"  aws cloudformation continue-update-rollback --stack-name {name}\n"
                      f"or, to leave those resources as they are, with: --resources-to-skip {skipped}\n"
                      f"When it is UPDATE_ROLLBACK_COMPLETE: {deploy}")
    if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
        raise Refused(f"another operation on {name} is under way ({status})\n"
                      f"Wait for its end, or, if it is an update, end it:\n"
                      f"  aws cloudformation cancel-update-stack --stack-name {name}")

    before, after = stack.parameters(), json.loads(pathlib.Path(file).read_text())
    changed = {parameter: (before[parameter], value) for parameter, value in after.items()
               if parameter in before and before[parameter] != value and parameter not in ["ReleaseId", "PreviousVersion"]}
    for parameter, (old, new) in changed.items():
        say(f"{parameter} changes from {old or 'nothing'} to {new or 'nothing'}")
    # A parameter that was given once and is left out now must not open an API that somebody has closed.
    if after["ApiAuthorization"] == "NONE" and "ApiAuthorization" in changed and "ApiAuthorization=NONE" not in given:
        authorization = before["ApiAuthorization"]
        raise Refused(f"this would let anybody call the API of {name}, which now demands {authorization}\n"
                      f"To leave it closed, put ApiAuthorization={authorization} into samconfig.toml; to open it:\n"
                      f"  {deploy} PARAMETERS='ApiAuthorization=NONE'")
    for parameter in {"FirstZoneId", "SecondZoneId"} & changed.keys():
        raise Refused(f"{parameter} is fixed when the stack is created; another zone needs another stack:\n"
                      f"  {deploy} STACK={name}-2")
    if {"CacheMode", "SubnetIds", "SecurityGroupIds", "VpcId"} & changed.keys():
        say("Versions from before this hold network interfaces in the network that they were made with. If that is",
            "deleted now, this says at its end what is left of it, and how to delete that.")


def moved(stack):
    print(stack.moved() or "")


def previous(stack, file):
    path = pathlib.Path(file)
    before, after = stack.parameters(), json.loads(path.read_text())
    if after["ReleaseId"] == before.get("ReleaseId"):
        # No release: the version that is live stays, and so does the one before it.
        after["PreviousVersion"] = before.get("PreviousVersion", "none")
    else:
        after["PreviousVersion"] = stack.live() or "none"
    path.write_text(json.dumps(after, indent=2) + "\n")


def left(stack):
    if stack.described() is None:
        return
    failed = {event["PhysicalResourceId"]: event for event in stack.failures()
              if event["ResourceStatus"] == "DELETE_FAILED" and event["LogicalResourceId"] != stack.name}
    if not failed:
        return
    say("", "CloudFormation could not delete:",
        *(f"  {event['ResourceType']} {name}: {event.get('ResourceStatusReason', '')}" for name, event in failed.items()))
    if stack.described()["StackStatus"] == "DELETE_FAILED":
        say("Mostly that is a network interface, which Lambda removes up to forty minutes after its function. Then:",
            f"  {stack.make('destroy')}")
        return
    say("Mostly versions from before hold network interfaces in it. Delete those versions, wait for up to forty",
        "minutes until Lambda has removed the interfaces, then delete what is left:", f"  {stack.make('prune')}")
    for kind, command in DELETIONS.items():
        say(*(f"  {command} {name}" for name, event in failed.items() if event["ResourceType"] == kind))


def tables(stack):
    for table in stack.tables():
        say(f"It keeps the table {table} with all users, which costs its storage. To go on with it later:",
            f"  {stack.make('deploy')} PARAMETERS='TableName={table} StreamArn='\"$(aws dynamodb describe-table"
            f" --table-name {table} --query Table.LatestStreamArn --output text)\"",
            "To delete it, too, with all users:", *delete_table(table))


def release_of(version):
    """What a version runs, whether its cache is on or off."""
    parts = {part: version.get(part) for part in PARTS_OF_A_RELEASE}
    variables = (parts.pop("Environment") or {}).get("Variables", {})
    return parts, {name: value for name, value in variables.items() if name != "CACHE_ENABLED"}


def version_before(stack, versions, live):
    """The version that was live before the release of the version `live`.

    Each version names the one that was live when it was deployed. So a version that failed its check, which Lambda
    keeps, is never found. Versions of the same release are passed over: make cache-off and make cache-on publish one each.
    """
    by_hand = f"\nTo choose one by hand, out of {', '.join(versions)}: {stack.make('rollback')} VERSION=…"
    version = live
    while True:
        named = re.search(r" after version (\d+)$", versions[version].get("Description", ""))
        if not named:
            raise Refused(f"nothing to roll back to: version {live} is live, and no other release was live before it"
                          + (by_hand if len(versions) > 1 else ""))
        version = named[1]
        if version not in versions:
            raise Refused(f"nothing to roll back to: version {live} is live, and version {version}, which was live "
                          f"before, is deleted (make prune)" + (by_hand if len(versions) > 1 else ""))
        if release_of(versions[version]) != release_of(versions[live]):
            return version


def rollback(stack, version=None):
    function, alias = stack.function(), stack.alias()
    functions = stack.client("lambda")
    live = alias["FunctionVersion"]
    if alias.get("RoutingConfig", {}).get("AdditionalVersionWeights") and version is None:
        deploy = stack.client("codedeploy")
        application, = stack.resources("AWS::CodeDeploy::Application")
        group, = stack.resources("AWS::CodeDeploy::DeploymentGroup")
        running = deploy.list_deployments(applicationName=application, deploymentGroupName=group,
                                          includeOnlyStatuses=["Created", "Queued", "InProgress"])["deployments"]
        for deployment in running:
            deploy.stop_deployment(deploymentId=deployment, autoRollbackEnabled=True)
        if running:
            say(f"Stopped the deployment; all requests go to version {live} again, and CloudFormation rolls back.")
            return
    pages = functions.get_paginator("list_versions_by_function").paginate(FunctionName=function)
    versions = {each["Version"]: each for page in pages for each in page["Versions"] if each["Version"] != "$LATEST"}
    if version is None:
        version = version_before(stack, versions, live)
    elif version not in versions:
        raise Refused(f"VERSION is {version}; {function} has: {', '.join(versions)}")
    functions.update_alias(FunctionName=function, Name="live", FunctionVersion=version,
                           RoutingConfig={"AdditionalVersionWeights": {}})
    say(f"All requests go to version {version}; before it was {live}.",
        f"What is wrong with version {live} is still what the sources deploy: fix it, then {stack.make('deploy')}")


def set_parameters(stack, *settings):
    before = stack.parameters() or stack.existing()
    # The update would publish what CloudFormation has, which is the release that was rolled back.
    moved_from = stack.moved()
    if moved_from:
        raise Refused(f"the alias was moved by hand (make rollback), and this would send all requests to the release of "
                      f"version {moved_from} again\nCheck out the sources that are to be live, then:\n"
                      f"  {stack.make('deploy')} PARAMETERS='{' '.join(settings)}'")
    changes = {**dict(setting.split("=", 1) for setting in settings), "PreviousVersion": stack.live() or "none"}
    unknown = changes.keys() - before.keys()
    if unknown:
        raise Refused(f"the stack {stack.name} has no parameter {', '.join(sorted(unknown))}; "
                      f"it is older than this: {stack.make('deploy')}")
    changes["DeploymentByCodeDeploy"] = "false"
    # A new id: it depends on the current one, on the changes, and so on the whole history.
    changes["ReleaseId"] = hashlib.sha256(f"{before['ReleaseId']} {sorted(changes.items())}".encode()).hexdigest()[:16]
    stack.cloudformation.update_stack(
        StackName=stack.name, UsePreviousTemplate=True, Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[{"ParameterKey": name, "ParameterValue": changes[name]} if name in changes
                    else {"ParameterKey": name, "UsePreviousValue": True} for name in before])
    say(f"Updating {stack.name}: {' '.join(settings)}")
    stack.cloudformation.get_waiter("stack_update_complete").wait(
        StackName=stack.name, WaiterConfig={"Delay": 5, "MaxAttempts": 360})
    say(f"Done. The next {stack.make('deploy')} sets it again to what samconfig.toml says.")


def prune(stack):
    function, alias = stack.function(), stack.alias()
    functions = stack.client("lambda")
    live = {alias["FunctionVersion"], *alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}), "$LATEST"}
    pages = functions.get_paginator("list_versions_by_function").paginate(FunctionName=function)
    old = [each["Version"] for page in pages for each in page["Versions"] if each["Version"] not in live]
    for version in old:
        functions.delete_function(FunctionName=function, Qualifier=version)
    say(f"Deleted {len(old)} versions; make rollback has none to go back to before the next release.")


def credentials(stack):
    found = stack.session.get_credentials()
    if found is None:
        raise Refused("no AWS credentials; sign in as for other AWS tools, say: aws sso login")
    found = found.get_frozen_credentials()
    exported = {"AWS_ACCESS_KEY_ID": found.access_key, "AWS_SECRET_ACCESS_KEY": found.secret_key,
                "AWS_SESSION_TOKEN": found.token or "", "AWS_REGION": stack.region or ""}
    for name, value in exported.items():
        print(f"export {name}={shlex.quote(value)}")


COMMANDS = {"outputs": outputs, "output": output, "check": check, "moved": moved, "previous": previous, "left": left,
            "tables": tables, "rollback": rollback, "set": set_parameters, "prune": prune, "credentials": credentials}


def main(config, command, *arguments):
    try:
        COMMANDS[command](Stack(config), *arguments)
    except (Refused, BotoCoreError, ClientError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[2] not in COMMANDS:
        sys.exit(__doc__)
    main(*sys.argv[1:])
