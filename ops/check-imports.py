#!/usr/bin/env python3
"""Checks who imports whom. The table is the architecture: docs/architecture.md describes its rooms."""

import re
import sys
from pathlib import Path

# What a target may import besides what those it names may import.
TABLE = {
    "CKernels": set(),
    "CNUMA": set(),
    "COpenBLAS": set(),
    "CCRC32C": set(),
    "Wire": {"CCRC32C", "NIOCore", "SwiftProtobuf"},
    "JSONText": set(),
    "Prometheus": set(),
    "ModelStore": {"JSONText", "Crypto"},
    "Tokenizer": {"JSONText"},
    "Engine": {"CKernels", "CNUMA", "COpenBLAS", "ModelStore"},
    "Placement": {"Wire", "ModelStore"},
    "Transport": {"Wire", "NIOCore", "NIOPosix"},
    "Worker": {"Engine", "Transport", "Prometheus"},
    "Coordinator": {"Placement", "Transport", "Tokenizer", "Prometheus"},
    "Gateway": {"Coordinator", "Hummingbird", "HummingbirdCore", "HTTPTypes", "NIOHTTP1", "NIOHTTPTypes"},
    "TramontaneClient": {"Wire", "Transport"},
    "tramontane": {"Worker", "Gateway", "TramontaneClient", "ArgumentParser", "Yams"},
    "ChatExample": {"TramontaneClient"},
    "TestSupport": {"Worker", "Coordinator"},
}

# The language's own libraries, and those that every target may use.
EVERYWHERE = {
    "Swift", "Foundation", "FoundationEssentials", "Glibc", "Dispatch", "Synchronization",
    "Logging", "CoreMetrics", "DequeModule", "OrderedCollections", "HeapModule", "ServiceLifecycle", "UnixSignals",
}  # fmt: skip

# Said once more, so that a change of the table cannot let them in by a detour.
NEVER = [
    ("Worker", "Coordinator"),
    ("Coordinator", "Engine"),
    ("Engine", "NIOCore"),
    ("Engine", "NIOPosix"),
]

IMPORT = re.compile(
    r"^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|fileprivate|private)\s+)?import\s+"
    r"(?:(?:struct|class|enum|protocol|func|var|let|typealias|actor)\s+)?(\w+)"
)
PUBLIC = re.compile(r"^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:public|open)\s+(?!import)")


def reach(table, target):
    """All that a target may import, itself included."""
    found, waiting = set(), [target]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(table.get(name, ()))
    return found


def imports(text):
    """The (line number, module) pairs of a Swift file."""
    for number, line in enumerate(text.splitlines(), 1):
        match = IMPORT.match(line)
        if match:
            yield number, match[1]


def check(sources, table=TABLE, never=NEVER):
    """The list of violations in a folder of targets."""
    problems = []
    for importer, imported in never:
        if imported in reach(table, importer):
            problems.append(f"the table lets {importer} import {imported}")
    for folder in sorted(path for path in sources.iterdir() if path.is_dir()):
        target = folder.name
        if target not in table:
            problems.append(f"{folder}: the table has no row for this target")
            continue
        allowed = reach(table, target) | EVERYWHERE
        for file in sorted(folder.rglob("*.swift")):
            text = file.read_text()
            for number, module in imports(text):
                if module not in allowed:
                    problems.append(f"{file}:{number}: {target} may not import {module}")
            if target == "TramontaneClient" or target == "ChatExample":
                continue
            for number, line in enumerate(text.splitlines(), 1):
                if PUBLIC.match(line):
                    problems.append(f"{file}:{number}: public belongs to the SDK, package is meant")
    return problems


def main():
    root = Path(__file__).resolve().parent.parent
    problems = check(root / "Sources")
    for problem in problems:
        print(problem.replace(f"{root}/", ""), file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
