"""The parameters that `make deploy` gives to template.yaml, a line each, as Name=Value.

usage: parameters.py CONFIG BUILD FILE [Name=Value ...]

They are all parameters of the template: its defaults, then what CONFIG in samconfig.toml sets, then what is
given. A parameter that is left out would keep the value that the stack has, whatever the template says by now.
They are also written into FILE, as YAML for `sam deploy --parameter-overrides file://FILE`, which takes empty
values; with - for FILE they are not. Two of them are computed unless they are set (and PreviousVersion by stack.py,
which sees the stack):

- InvalidationMaxAgeSeconds: what was stored before a change has ended after CacheTtlSeconds and the longer of
  CacheStaleIfErrorSeconds and CacheStaleWhileRevalidateSeconds together, so that long the change is worth retrying.
- ReleaseId: a hash of all that reaches the users function: its program in the folder BUILD, its part of the
  template, the parameters that this part depends on, and the variable NONCE. The alias gets a new version when
  it changes, and only then. With - for BUILD, before the build, it is left out.
"""

import hashlib
import json
import os
import pathlib
import re
import sys

try:
    import tomllib
except ImportError:  # Python before 3.11
    from pip._vendor import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = "UsersFunction/bootstrap"
# Parameters that do not change a version, only how requests move to it.
NOT_OF_A_VERSION = {"ReleaseId", "PreviousVersion", "ReservedConcurrency", "DeploymentType", "DeploymentAlarms",
                    "DeploymentByCodeDeploy"}
# Resources whose replacement changes the function, such as a subnet in another zone.
RESOURCES_OF_A_VERSION = {"FirstSubnet", "SecondSubnet", "FunctionSecurityGroup"}


class Refused(Exception):
    pass


def without_comments(text):
    return re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)


def entries(template, section):
    """The entries of a section of a template: their text by name."""
    body = re.search(rf"^{section}:\n(.*?)(?=^\w|\Z)", without_comments(template), re.MULTILINE | re.DOTALL)[1]
    return dict(re.findall(r"^  (\w+):(.*\n(?:    .*\n|\n)*)", body, re.MULTILINE))


def defaults(template):
    """The parameters of a template, in its order; a parameter without a default is None."""
    found = {}
    for name, body in entries(template, "Parameters").items():
        default = re.search(r"^    Default: (.*)$", body, re.MULTILINE)
        found[name] = default and default[1].strip("'")
    return found


def release_parts(template):
    """The parts of a template that make up the users function, and the parameters that they depend on."""
    conditions, resources = entries(template, "Conditions"), entries(template, "Resources")
    known = defaults(template)
    parts = {"Globals": entries(template, "Globals")["Function"], "UsersFunction": resources["UsersFunction"]}
    used, left = set(), list(parts.values())
    while left:
        for name in set(re.findall(r"\w+", left.pop())) - used:
            used.add(name)
            if name in conditions:
                left.append(conditions[name])
            elif name in RESOURCES_OF_A_VERSION:
                left.append(resources[name])
    return parts, [name for name in known if name in used - NOT_OF_A_VERSION]


def pairs(settings, source, accepted):
    """Converts Name=Value texts to a dictionary."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in accepted:
            raise Refused(f"{source} has {setting}; accepted: Name=Value with a Name out of {', '.join(accepted)}")
        found[name] = value
    return found


def environment(config, path=ROOT / "samconfig.toml"):
    """One environment of samconfig.toml."""
    with path.open("rb") as file:
        environments = tomllib.load(file)
    environments.pop("version")
    if config not in environments:
        raise Refused(f"CONFIG is {config}; {path.name} has: {', '.join(environments)}")
    return environments[config]


def whole_number(values, name):
    if not re.fullmatch(r"[0-9]+", values[name]):
        raise Refused(f"{name} is {values[name]}; accepted: a whole number of seconds")
    return int(values[name])


def parameters(config, build, given, nonce=""):
    template = (ROOT / "template.yaml").read_text()
    known = defaults(template)
    chosen = pairs(environment(config)["deploy"]["parameters"]["parameter_overrides"], "samconfig.toml", known)
    chosen.update(pairs(given, "PARAMETERS", known))
    if chosen.get("AlarmEmail", "").endswith("@example.com"):
        raise Refused("AlarmEmail is still the one of the example; "
                      "put yours into samconfig.toml, or: PARAMETERS='AlarmEmail=…'")

    values = {**known, **chosen}
    if "InvalidationMaxAgeSeconds" not in chosen:
        windows = ["CacheStaleIfErrorSeconds", "CacheStaleWhileRevalidateSeconds"]
        life = whole_number(values, "CacheTtlSeconds") + max(whole_number(values, name) for name in windows)
        # The range that the mapping of a stream to a function accepts.
        values["InvalidationMaxAgeSeconds"] = str(min(max(life, 60), 604_800))
    if "ReleaseId" not in chosen:
        del values["ReleaseId"]
        if build != "-":
            values["ReleaseId"] = release_id(template, values, pathlib.Path(build, PROGRAM).read_bytes(), nonce)
    return values


def release_id(template, values, program, nonce):
    parts, names = release_parts(template)
    release = hashlib.sha256(program)
    for part in [*parts.values(), *(f"{name}={values[name]}" for name in names), nonce]:
        release.update(part.encode() + b"\0")
    return release.hexdigest()[:16]


def main(config, build, file, *given):
    try:
        values = parameters(config, build, given, os.environ.get("NONCE", ""))
    except Refused as refused:
        sys.exit(f"error: {refused}")
    for name, value in values.items():
        print(f"{name}={value}")
    if file != "-":
        # JSON is YAML.
        pathlib.Path(file).write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
