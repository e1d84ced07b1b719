"""Writes into a directory what is deployed for the checked choices of parameters, for programs that read templates."""

import json
import pathlib
import sys

from support import deployed
from test_template import CHECKED

directory = pathlib.Path(sys.argv[1])
for number, choice in enumerate(CHECKED):
    (directory / f"{number:03}.json").write_text(json.dumps(deployed(**choice)))
