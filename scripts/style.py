#!/usr/bin/env python3
"""Finds phrases in prose that have a plainer alternative.

    scripts/style.py [FILE]...
    scripts/style.py --list

Without arguments it reads the documents of this repository, the help of the Makefile, the template's descriptions, and
the messages of the scripts. It looks only at prose: Markdown without code and quotations, YAML's descriptions, and the
comments and messages of shell scripts. In Rust sources, which it reads only when they are given, it looks at the
comments. `--list` prints the names of the files.
"""

import pathlib
import re
import subprocess
import sys

# What not to write, and what to write instead. Case is ignored.
PHRASES = [
    (r"\b(?:not|never|is|are|be|being|was|were) kept\b", "stored"),
    (r"\bload(?:s|ed|ing)? (?:\w+ )?anew\b", "reload, refresh"),
    (r"\bstands? in(?: for| where|;|,|\.|$)", "serve stale"),
    (r"\bgiv(?:e|es|en) (?:\w+ )?again\b", "retry, redeliver"),
    (r"\b(?:is|are|be|was) given up\b", "time out"),
    (r"\bmakes? (?:\w+ )?old\b", "invalidate"),
    (r"\bin(?:to)? the place of\b", "instead of"),
    (r"\bbelongs? into\b", "belongs in"),
    (r"\bcan(?:not)? be no\b", "is not a valid …, is malformed"),
    (r"\b(?:is|are) none\b", "say what is missing"),
    (r"\bthere (?:is|are|was|were)\b", "let the subject do something"),
    (r"\bwhat (?:\w+ ){1,4}(?:is|are) no\b", "name the noun"),
    (r"\b(?:is|are) no [a-z]+(?=[.,;:]|$)", "is not a …"),
    (r"\b(?:go|goes|went|going) past\b", "bypass"),
    (r"\bpast (?:the|it|its) cache\b", "bypassing the cache"),
    (r"\blook-ups?\b", "lookup"),
    (r"\ban own\b|\bof its own kind\b", "its own, your own"),
    (r"\bdearer\b|\bdearest\b", "more expensive"),
    (r"\bmend(?:s|ed|ing)?\b", "fix, correct"),
    (r"\bseldom\b", "rarely"),
    (r"\breckoned\b", "calculated"),
    (r"\bsees? to it\b", "ensures"),
    (r"\ball that\b", "everything that, each"),
    (r"\bmade anew\b|\bafresh\b", "again"),
    (r"\btold (?:once|again)\b", "logged, reported"),
]
# A phrase may continue on the next line.
BANNED = [(re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE | re.MULTILINE), instead)
          for pattern, instead in PHRASES]


def blank(match):
    """As many empty lines, so that line numbers stay the same."""
    return re.sub(r"[^\n]", " ", match[0])


def prose(path, text):
    """The text of the file with everything except prose blanked."""
    if path.suffix == ".md":
        # Code, quotations (the guarantee is quoted word for word), inline code, addresses.
        for pattern in [r"^```.*?^```", r"^>.*?$", r"`[^`\n]+`", r"\]\([^)]*\)"]:
            text = re.sub(pattern, blank, text, flags=re.MULTILINE | re.DOTALL)
        return text
    if path.name == "Makefile":
        wanted = r"##? ?(.*)$"
    elif path.suffix in (".yaml", ".yml"):
        wanted = r"^\s*(?:Description|AlarmDescription|ConstraintDescription|description|summary): (.*)$|^\s*# (.*)$"
    elif path.suffix == ".rs":
        wanted = r"//[/!]? ?(.*)$"
    else:
        wanted = r"^\s*# (.*)$|\b(?:say|die|print) (.*)$"
    lines = []
    for line in text.split("\n"):
        found = re.search(wanted, line)
        lines.append(next((group for group in found.groups() if group), "") if found else "")
    return "\n".join(lines)


def findings(path, text):
    """The line, the phrase and the alternative for each match."""
    text = prose(path, text)
    return sorted((text.count("\n", 0, match.start()) + 1, match[0], instead)
                  for pattern, instead in BANNED for match in pattern.finditer(text))


def documents():
    listed = subprocess.run(["git", "ls-files", "*.md", "Makefile", "template.yaml", "dashboard.yaml", "samconfig.toml",
                             "openapi.yaml", "scripts/*.sh"], check=True, capture_output=True, text=True).stdout
    return [pathlib.Path(line) for line in listed.splitlines()]


def main(arguments):
    if arguments == ["--list"]:
        print(*documents(), sep="\n")
        return False
    failed = False
    for path in [pathlib.Path(argument) for argument in arguments] or documents():
        for line, phrase, instead in findings(path, path.read_text()):
            failed = True
            print(f"{path}:{line}: {' '.join(phrase.split())!r}; write instead: {instead}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
