"""The template as CloudFormation sees it: transformed by SAM, then with its parameters applied."""

import functools
import json
import logging
import os
import pathlib
import re

os.environ.setdefault("AWS_DEFAULT_REGION", "eu-west-1")  # The translator asks for one.

import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

logging.getLogger("samtranslator").setLevel(logging.CRITICAL)

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A stack name with capitals, which ElastiCache would reject.
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "Users-API",
    "AWS::StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/Users-API/"
                    "0a1b2c3d-1111-2222-3333-444455556666",
}
NOTHING = object()


class CloudFormation(yaml.SafeLoader):
    """Parses YAML with CloudFormation's short forms: `!Ref x` is `{"Ref": "x"}`."""


def short_form(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ["Ref", "Condition"] else f"Fn::{suffix}": value}


CloudFormation.add_multi_constructor("!", short_form)


def load(name):
    return yaml.load((ROOT / name).read_text(), CloudFormation)


def transformed(**parameters):
    """The template after SAM's transformation. SAM itself evaluates a few parameters."""
    decisive = {name: value for name, value in parameters.items()
                if name in ["DeploymentType", "DeploymentByCodeDeploy", "ReleaseId"]}
    return json.loads(transform(**{"ReleaseId": "one", **decisive}))


@functools.cache
def transform(**parameters):
    template = load("template.yaml")
    # Like `sam package`: code and nested templates are in a bucket.
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::CloudFormation::Stack":
            resource["Properties"]["TemplateURL"] = "https://bucket.s3.amazonaws.com/key"
    return json.dumps(Translator({}, Parser()).translate(template, parameters))


def deployed(**parameters):
    """The transformed template for a choice of parameters: its conditions are evaluated, and what this stack does not
    contain is left out. References between resources remain."""
    template = transformed(**parameters)
    return Stack(template, {"ReleaseId": "one", **parameters}).template()


@functools.cache
def source():
    """The template as it is in the file."""
    return load("template.yaml")


def refusals(**parameters):
    """The violations of the template's rules by a choice of parameters."""
    template = source()
    stack = Stack(template, {"ReleaseId": "one", **parameters})
    said = []
    for rule in template["Rules"].values():
        if stack.is_true(rule.get("RuleCondition", True)):
            said += [assertion["AssertDescription"] for assertion in rule["Assertions"]
                     if not stack.is_true(assertion["Assert"])]
    return said


class Stack:
    def __init__(self, template, parameters):
        self.source = template
        unknown = parameters.keys() - template["Parameters"].keys()
        assert not unknown, unknown
        self.values = dict(PSEUDO)
        for name, parameter in template["Parameters"].items():
            value = parameters.get(name, parameter.get("Default"))
            is_list = parameter["Type"] == "CommaDelimitedList"
            self.values[name] = str(value).split(",") if is_list else value

    def template(self):
        resolved = {name: part for name, part in self.source.items() if name not in ["Conditions", "Rules"]}
        for section in ["Resources", "Outputs"]:
            resolved[section] = {
                name: {key: self.value(value) for key, value in part.items() if key != "Condition"}
                for name, part in self.source[section].items()
                if self.is_true({"Condition": part["Condition"]} if "Condition" in part else True)
            }
        return resolved

    def is_true(self, condition):
        if not isinstance(condition, dict):
            return condition
        (function, argument), = condition.items()
        if function == "Condition":
            return self.is_true(self.source["Conditions"][argument])
        if function == "Fn::Not":
            return not self.is_true(argument[0])
        if function == "Fn::And":
            return all(map(self.is_true, argument))
        if function == "Fn::Or":
            return any(map(self.is_true, argument))
        left, right = map(self.value, argument)
        if function == "Fn::EachMemberEquals":
            return all(member == right for member in left)
        assert function == "Fn::Equals", function
        return str(left) == str(right)

    def value(self, node):
        if isinstance(node, list):
            values = map(self.value, node)
            return [value for value in values if value is not NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (function, argument), = node.items()
            if function == "Fn::If":
                name, yes, no = argument
                return self.value(yes if self.is_true({"Condition": name}) else no)
            if function == "Ref":
                return NOTHING if argument == "AWS::NoValue" else self.values.get(argument, node)
            if function == "Fn::Sub" and isinstance(argument, str):
                return self.sub(argument)
            if function in ["Fn::Join", "Fn::Select", "Fn::Split"]:
                return self.of_texts(function, self.value(argument))
        values = {key: self.value(value) for key, value in node.items()}
        return {key: value for key, value in values.items() if value is not NOTHING}

    def sub(self, text):
        def known(match):
            return str(self.values.get(match[1], match[0]))
        text = re.sub(r"\$\{([\w:]+)\}", known, text)
        return {"Fn::Sub": text} if "${" in text else text

    @staticmethod
    def of_texts(function, argument):
        first, second = argument
        if function == "Fn::Split" and isinstance(second, str):
            return second.split(first)
        if function == "Fn::Select" and isinstance(second, list):
            return second[int(first)]
        if function == "Fn::Join" and all(isinstance(part, str) for part in second):
            return first.join(second)
        return {function: argument}
