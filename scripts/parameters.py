"""The parameters that `make deploy` gives to template.yaml, a line each, as Name=Value.

usage: parameters.py CONFIG BUILD [Name=Value ...]

They are those of CONFIG in samconfig.toml, then those that are given; and two that are worked out:

- InvalidationMaxAgeSeconds: what was kept before a change has ended after CacheTtlSeconds and
  CacheStaleIfErrorSeconds together, so that long the change is worth trying.
- ReleaseId: a hash of both programs in the folder BUILD, of the template and of all other parameters.
  The alias gets a new version only when it changes. It is left out where BUILD is -, before the build.
"""

import hashlib
import pathlib
import re
import sys

try:
    import tomllib
except ImportError:  # Python before 3.11
    from pip._vendor import tomli as tomllib

PROGRAMS = ["UsersFunction/bootstrap", "InvalidateFunction/bootstrap"]


class Refused(Exception):
    pass


def defaults(template):
    """The parameters of a template, in its order; those without a default are None."""
    section = re.search(r"^Parameters:\n(.*?)^\w", template, re.MULTILINE | re.DOTALL)[1]
    found = {}
    for name, body in re.findall(r"^  (\w+):\n((?:    .*\n|\n)*)", section, re.MULTILINE):
        default = re.search(r"^    Default: (.*)$", body, re.MULTILINE)
        found[name] = default and default[1].strip("'")
    return found


def pairs(settings, source, accepted):
    """Name=Value texts as a dictionary."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in accepted:
            raise Refused(f"{source} has {setting}; accepted: Name=Value with a Name out of {', '.join(accepted)}")
        found[name] = value
    return found


def configured(path, config):
    """What samconfig.toml sets in one of its environments."""
    with path.open("rb") as file:
        environments = tomllib.load(file)
    environments.pop("version")
    if config not in environments:
        raise Refused(f"CONFIG is {config}; {path.name} has: {', '.join(environments)}")
    return environments[config]["deploy"]["parameters"]["parameter_overrides"]


def whole_number(values, name):
    if not re.fullmatch(r"[0-9]+", values[name]):
        raise Refused(f"{name} is {values[name]}; accepted: a whole number of seconds")
    return int(values[name])


def parameters(root, config, build, given):
    template = (root / "template.yaml").read_text()
    known = defaults(template)
    chosen = pairs(configured(root / "samconfig.toml", config), "samconfig.toml", known)
    chosen.update(pairs(given, "PARAMETERS", known))
    if chosen.get("AlarmEmail", "").endswith("@example.com"):
        raise Refused("AlarmEmail is still the one of the example; "
                      "put yours into samconfig.toml, or: PARAMETERS='AlarmEmail=…'")

    if "InvalidationMaxAgeSeconds" not in chosen:
        values = {**known, **chosen}
        life = sum(whole_number(values, name) for name in ["CacheTtlSeconds", "CacheStaleIfErrorSeconds"])
        # What the mapping of a stream to a function takes.
        chosen["InvalidationMaxAgeSeconds"] = str(min(max(life, 60), 604_800))

    chosen.pop("ReleaseId", None)
    if build == "-":
        return chosen
    release = hashlib.sha256(template.encode())
    for program in PROGRAMS:
        release.update(pathlib.Path(build, program).read_bytes())
    for name, value in sorted(chosen.items()):
        release.update(f"{name}={value}\n".encode())
    return {**chosen, "ReleaseId": release.hexdigest()[:16]}


def main(config, build, *given):
    root = pathlib.Path(__file__).resolve().parents[1]
    try:
        for name, value in parameters(root, config, build, given).items():
            print(f"{name}={value}")
    except Refused as refused:
        sys.exit(f"error: {refused}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
