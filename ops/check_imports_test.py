#!/usr/bin/env python3
"""Tests of check-imports.py."""

import importlib.util
import tempfile
import unittest
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("check_imports", Path(__file__).with_name("check-imports.py"))
CHECK = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(CHECK)


class ImportTable(unittest.TestCase):
    def problems(self, **files):
        with tempfile.TemporaryDirectory() as folder:
            for target, text in files.items():
                path = Path(folder, target, "Part", "File.swift")
                path.parent.mkdir(parents=True)
                path.write_text(text)
            return CHECK.check(Path(folder))

    def test_what_the_table_allows(self):
        self.assertEqual(self.problems(Engine="import CKernels\npackage import ModelStore\nimport Logging\n"), [])
        self.assertEqual(self.problems(Gateway="import Hummingbird\nimport struct Tokenizer.Tokenizer\n"), [])

    def test_forbidden_imports_in_every_spelling(self):
        for line in [
            "import NIOCore", "package import NIOCore", "@preconcurrency import NIOCore", "  import NIOCore",
            "import struct NIOCore.ByteBuffer", "@_spi(X) internal import NIOCore",
        ]:  # fmt: skip
            self.assertEqual(len(self.problems(Engine=line)), 1, line)
        self.assertEqual(len(self.problems(Worker="import Coordinator")), 1)
        self.assertEqual(len(self.problems(Coordinator="import Engine")), 1)
        self.assertEqual(len(self.problems(Tokenizer="import Crypto")), 1)

    def test_targets_without_a_row(self):
        self.assertEqual(len(self.problems(Novel="import Logging")), 1)

    def test_public_belongs_to_the_sdk(self):
        self.assertEqual(len(self.problems(Worker="public struct Step {}")), 1)
        self.assertEqual(self.problems(TramontaneClient="public struct Token {}"), [])

    def test_the_table_keeps_what_is_never_allowed(self):
        table = dict(CHECK.TABLE, Engine={"Transport"})
        problems = CHECK.check(Path(tempfile.mkdtemp()), table=table)
        self.assertIn("the table lets Engine import NIOCore", problems)


if __name__ == "__main__":
    unittest.main()
