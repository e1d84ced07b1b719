"""Whether a library's public API names types of its own, of std, and of the crates given, and no others.

    public_types.py target/doc/CRATE.json http bytes ...

Another crate's type in an API makes each major version of that crate one of the API's own. The first argument is
what rustdoc writes with `--output-format json`.
"""

import json
import sys

STD = {"std", "core", "alloc"}


def named_types(value):
    """The ids of all types and traits that a part of an item names."""
    if isinstance(value, dict):
        # A path of a type, or of a trait.
        if "path" in value and "id" in value:
            yield value["id"]
        for part in value.values():
            yield from named_types(part)
    elif isinstance(value, list):
        for part in value:
            yield from named_types(part)


def is_written(item):
    """Not what every type has from std's blanket implementations, or by itself, as `Send`."""
    implementation = item["inner"].get("impl")
    return not implementation or not (implementation["blanket_impl"] or implementation["is_synthetic"])


def main(path, *allowed):
    with open(path) as file:
        docs = json.load(file)
    own = docs["index"][str(docs["root"])]["crate_id"]
    crates = {int(number): crate["name"] for number, crate in docs["external_crates"].items()}
    foreign = set()
    for item in docs["index"].values():
        # A re-export alone is private where it names a private module.
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
