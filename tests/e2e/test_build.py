"""`sam build`: builds the functions for both processors, as Lambda needs them."""

import io
import pathlib
import re
import shutil
import subprocess
import unittest
import zipfile

from support import ROOT, environment, needs

# provided.al2023 runs on Amazon Linux 2023, whose C library is 2.34.
NEWEST_GLIBC = (2, 34)
# The machine type of an ELF file, at byte 18.
MACHINES = {"x86_64": 62, "arm64": 183}
TARGETS = {"x86_64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu"}
# A cold start loads the whole program.
MOST_BYTES = {"UsersFunction": 4_500_000, "InvalidateFunction": 3_800_000, "ReleaseCheckFunction": 3_800_000}


def can_build_for(target):
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True)
    return pathlib.Path(sysroot.stdout.strip(), "lib/rustlib", target).is_dir()


class Build(unittest.TestCase):
    def build(self, architecture):
        folder = ROOT / ".aws-sam" / architecture
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        # `sam build` builds one function after another. Building both at once halves the time on two cores, and `sam
        # build` then reuses the result.
        together = subprocess.run(["make", "build", f"ARCHITECTURE={architecture}"], cwd=ROOT, env=environment(),
                                  capture_output=True, text=True)
        self.assertEqual(together.returncode, 0, together.stderr)
        # As in scripts/deploy.sh.
        built = subprocess.run(
            ["bash", "-c", ". scripts/lib.sh; ensure_cargo_lambda; ensure_zig; ensure_sam; "
             'sam build --build-dir "$0" --parameter-overrides "Architecture=$1"',
             folder, architecture],
            cwd=ROOT, env=environment(), capture_output=True, text=True)
        self.assertEqual(built.returncode, 0, built.stderr)
        for function, most in MOST_BYTES.items():
            program = (folder / function / "bootstrap").read_bytes()
            self.assertEqual(program[:4], b"\x7fELF")
            self.assertEqual(int.from_bytes(program[18:20], "little"), MACHINES[architecture])
            asked = {tuple(map(int, version)) for version in re.findall(rb"GLIBC_(\d+)\.(\d+)", program)}
            self.assertTrue(asked)
            self.assertLessEqual(max(asked), NEWEST_GLIBC)

            zipped = io.BytesIO()
            with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("bootstrap", program)
            size = len(zipped.getvalue())
            print(f"\n{function}, {architecture}: {size:,} bytes zipped, {len(program):,} unzipped, "
                  f"glibc {'.'.join(map(str, max(asked)))}")
            self.assertLessEqual(size, most, "larger than it was; is that worth it?")

    @needs(can_build_for(TARGETS["x86_64"]), "no Rust library for x86-64")
    def test_for_x86_64(self):
        self.build("x86_64")

    @needs(can_build_for(TARGETS["arm64"]), "no Rust library for arm64 (rustup target add aarch64-unknown-linux-gnu)")
    def test_for_arm64(self):
        self.build("arm64")


if __name__ == "__main__":
    unittest.main()
