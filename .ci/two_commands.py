"""Runs the README's two commands, in order, in a fresh clone on a machine without Redis.

`make run` installs a server there, and `make test` must pass with it, so this also runs the Rust suite against that
other server. It does not repeat the parts that use no server, such as the builds for Lambda.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/e2e"))

from support import MANAS, PATIENCE_S, ROOT, Make, ask, free_port, path_without


class TwoCommands(unittest.TestCase):
    def test_the_first_answers_and_the_second_is_green(self):
        clone = pathlib.Path(tempfile.mkdtemp(prefix="response-boost-"))
        self.addCleanup(shutil.rmtree, clone)
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        path = path_without("redis-server", "valkey-server", "redis-cli", "valkey-cli")
        self.addCleanup(shutil.rmtree, path)
        variables = {"PATH": str(path)}
        parts = "rust"

        run = Make("run", f"PORT={free_port()}", folder=clone, **variables)
        self.addCleanup(run.interrupt)
        url = run.wait_until_ready()
        users = url.removesuffix("1")
        miss, hit = ask(url), ask(url)
        self.assertEqual((miss.body, hit.body), (MANAS, MANAS))
        self.assertEqual(miss.cache_status, "response-boost; fwd=uri-miss; stored")
        self.assertRegex(hit.cache_status, r"^response-boost; hit; ttl=1[01]\d$")
        self.assertEqual(json.loads(ask(f"{users}4").body)["detail"], "User not found")
        self.assertEqual((ask(f"{users}4").status, ask(f"{users}abc").status), (404, 400))

        [look_inside] = re.findall(r"look inside: (.+) KEYS", run.output())

        def redis_cli(*command):
            asked = subprocess.run([*look_inside.split(), *command], cwd=clone, capture_output=True, text=True)
            return asked.stdout.strip()

        self.assertIn("users:user:1", redis_cli("KEYS", "*").split())
        self.assertIn(int(redis_cli("TTL", "users:user:1")), range(1, 121))

        # `make run` rebuilds a changed source while it serves requests.
        source = clone / "src/users/embedded.rs"
        source.write_text(source.read_text().replace('"Manas"', '"Changed"'))
        deadline = time.monotonic() + PATIENCE_S
        while "Changed" not in ask(url).body:
            self.assertLess(time.monotonic(), deadline, run.output())
            redis_cli("DEL", "users:user:1")
            time.sleep(0.1)
        self.assertEqual(run.interrupt(), [], "left running")
        subprocess.run(["git", "checkout", "--quiet", "."], cwd=clone, check=True)

        test = Make("test", folder=clone, TEST_PARTS=parts, **variables)
        self.addCleanup(test.interrupt)
        status = test.wait(3600)
        print(test.output())
        self.assertEqual(status, 0)
        skipped = re.findall(r"^SKIPPED: (.*)", test.output(), re.MULTILINE)
        self.assertEqual(skipped, [f"TLS ({clone}/.tools/valkey/valkey-server has none)",
                                   "example (it is not among TEST_PARTS)",
                                   "template (it is not among TEST_PARTS)",
                                   "end-to-end (it is not among TEST_PARTS)"])


if __name__ == "__main__":
    unittest.main()
