"""Checks that a library's public API names only types of its own, of std, and of the given crates.

    public_types.py target/doc/CRATE.json http bytes ...

Another crate's type in an API turns each major version of that crate into one of the API. The first argument is the
output of rustdoc with `--output-format json`.
"""

import json
import sys

STD = {"std", "core", "alloc"}


def named_types(value):
    """The ids of all types and traits that a part of an item names."""
    if isinstance(value, dict):
        # A path to a type or a trait.
        if "path" in value and "id" in value:
            yield value["id"]
        for part in value.values():
            yield from named_types(part)
    elif isinstance(value, list):
        for part in value:
            yield from named_types(part)


def is_written(item):
    """Excludes std's blanket implementations and auto traits such as `Send`, which every type has."""
    implementation = item["inner"].get("impl")
    return not implementation or not (implementation["blanket_impl"] or implementation["is_synthetic"])


def main(path, *allowed):
    with open(path) as file:
        docs = json.load(file)
    own = docs["index"][str(docs["root"])]["crate_id"]
    crates = {int(number): crate["name"] for number, crate in docs["external_crates"].items()}
    foreign = set()
    for item in docs["index"].values():
        # A bare re-export is private if it names a private module.
        if item["crate_id"] != own or item["visibility"] not in ("public", "default") or not is_written(item):
            continue
        for named in named_types(item["inner"]):
            found = docs["paths"].get(str(named))
            if found and found["crate_id"] != own and crates[found["crate_id"]] not in STD | set(allowed):
                foreign.add(("::".join(found["path"]), item["name"] or "an implementation"))
    for named, where in sorted(foreign):
        print(f"error: {named} is in the public API ({where}); accepted: std, {', '.join(allowed)}", file=sys.stderr)
    sys.exit(bool(foreign))


main(*sys.argv[1:])
