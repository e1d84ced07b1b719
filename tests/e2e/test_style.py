"""`scripts/style.py`: the phrases that it finds, and where it looks."""

import pathlib
import subprocess
import sys
import unittest

from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from style import findings


def found(text, name="page.md"):
    return [(line, phrase) for line, phrase, _ in findings(pathlib.Path(name), text)]


class Style(unittest.TestCase):
    def test_it_finds_each_idiom_with_its_line(self):
        for text, phrase in [
            ("The answer is not kept.", "not kept"),
            ("An entry is loaded anew.", "loaded anew"),
            ("What can be no id is a 400.", "can be no"),
            ("An entry may stand in where the load fails.", "stand in where"),
            ("The record is given again.", "given again"),
            ("The load is given up.", "is given up"),
            ("in the place of the value", "in the place of"),
            ("Every request goes past the cache.", "goes past"),
            ("If there are two.", "there are"),
        ]:
            with self.subTest(text=text):
                self.assertIn((2, phrase), found(f"First.\n{text}\n"))

    def test_a_phrase_may_span_lines(self):
        self.assertEqual(found("The answer is never\nkept."), [(1, "never\nkept")])

    def test_it_passes_over_code_quotations_and_addresses(self):
        self.assertEqual(found("```sh\nthere is\n```\n> there is\n\n`there is` [x](there-is)\n"), [])

    def test_it_reads_descriptions_messages_and_comments(self):
        self.assertEqual(found("A:\n  Description: There is one\n  Name: there is\n", "a.yaml"), [(2, "There is")])
        self.assertEqual(found("# there is\nsay 'there are none'\nthere is\n", "a.sh")[:2], [(1, "there is"), (2, "are none")])
        self.assertEqual(found("/// there is\nlet there_is = \"there is\";\n", "a.rs"), [(1, "there is")])

    def test_the_documents_have_none(self):
        checked = subprocess.run([sys.executable, "scripts/style.py"], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual((checked.returncode, checked.stdout), (0, ""), checked.stderr)


if __name__ == "__main__":
    unittest.main()
