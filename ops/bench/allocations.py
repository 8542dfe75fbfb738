#!/usr/bin/env python3
"""Counts what a worker allocates in a steady decode step, by thread and call site:

    ops/bench/allocations.py [--model MODEL] [--workers N] [--stages S] [--threads T] [--streams 1 64] [--sites 20] [--most 1]

Starts a cluster of real processes whose workers run with a library (allocations.c, compiled for the occasion) that counts every
malloc, calloc, realloc and memalign with its stack; lets so many streams decode, and reads the counters twice while all of them
do. Steps are those of the workers' metrics. Heartbeats and metrics allocate too, on threads of their own. A prompt is computed for every
--tokens of a stream. With --most it fails where the code that computes steps (engine, machine, data plane) allocates more often
than that in a step. TRAMONTANE names the program.
"""

import argparse
import collections
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TRAMONTANE = os.environ.get("TRAMONTANE", str(ROOT / ".build/release/tramontane"))
FRAMES = 14
COMPUTING = re.compile(r"\$s6Engine|DataPlane|WorkerMachine|LaneTables|StepBuffers")
STACK = struct.Struct(f"<QQQ{FRAMES}Q")


def counted(file):
    """Counts by (thread, stack)."""
    data = Path(file).read_bytes()
    found = {}
    for _, count, thread, *frames in STACK.iter_unpack(data):
        if count:
            found[thread, tuple(frame for frame in frames if frame)] = count
    return found


class Symbols:
    """Names of a process's functions."""

    def __init__(self, pid):
        self.maps = []
        self.tables = {}
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith("/"):
                first, last = (int(part, 16) for part in fields[0].split("-"))
                self.maps.append((first, last, int(fields[2], 16), fields[5]))

    def table(self, path):
        if path not in self.tables:
            rows = []
            for option in ["-n", "-nD"]:
                out = subprocess.run(["nm", option, "--defined-only", path], capture_output=True, text=True).stdout
                rows += [(int(a, 16), name) for a, kind, name in (line.split(maxsplit=2) for line in out.splitlines()) if kind in "tTwW"]
            self.tables[path] = sorted(set(rows))
        return self.tables[path]

    def name(self, address):
        bases = {}
        for first, last, offset, path in self.maps:
            bases.setdefault(path, first - offset)
            if first <= address < last:
                table = self.table(path)
                place = address - bases[path]
                low, high = 0, len(table)
                while low < high:
                    middle = (low + high) // 2
                    low, high = (middle + 1, high) if table[middle][0] <= place else (low, middle)
                return table[low - 1][1] if low else Path(path).name
        return hex(address)


def demangled(names):
    try:
        out = subprocess.run(["swift-demangle", "--simplified"], input="\n".join(names), capture_output=True, text=True).stdout
        return dict(zip(names, out.splitlines()))
    except FileNotFoundError:
        return {name: name for name in names}


def steps(http):
    """Steps that all workers have ended, as their metrics say."""
    total = 0
    for group in json.load(urllib.request.urlopen(f"http://{http}/metrics/targets")):
        for target in group["targets"]:
            text = urllib.request.urlopen(f"http://{target}/metrics").read().decode()
            found = re.findall(r"^tramontane_stage_step_time_seconds_count(?:\{.*\})? (\S+)$", text, re.MULTILINE)
            total += sum(int(float(count)) for count in found)
    return total


def stream(http, number, tokens, begun, ended):
    """One completion after the other until `ended`. Says once that tokens come."""
    body = {
        "model": "demo", "prompt": f"Once upon a time there was a house, number {number}", "max_tokens": tokens, "temperature": 0,
        "stream": True, "logit_bias": {"2": -100},
    }
    body["model"] = json.load(urllib.request.urlopen(f"http://{http}/v1/models"))["data"][0]["id"]
    seen = 0
    while not ended.is_set():
        request = urllib.request.Request(f"http://{http}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                seen += line.startswith(b"data:")
                if seen == 20:
                    seen += 1
                    begun.release()
                if ended.is_set():
                    break


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "cluster/demo"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=3, help="between the two readings")
    parser.add_argument("--sites", type=int, default=20, help="call sites to list")
    parser.add_argument("--most", type=float, help="allocations of a step in the code that computes it")
    options = parser.parse_args()
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/allocations.so"
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-fno-omit-frame-pointer", "-o", library, ROOT / "ops/bench/allocations.c"], check=True)
        environment = dict(os.environ, LD_PRELOAD=library, ALLOCATIONS=f"{folder}/count")
        cluster = subprocess.Popen(
            [TRAMONTANE, "up", "--model", options.model, "--workers", str(options.workers), "--stages", str(options.stages),
             "--threads", str(options.threads), "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--pages", "4096",
             "--log-level", "warning"], env=environment, stdout=subprocess.PIPE, text=True)  # fmt: skip
        try:
            ready = next((line for line in cluster.stdout if line.startswith("ready ")), None)
            if ready is None:
                sys.exit("allocations.py: the cluster did not start")
            values = dict(word.split("=", 1) for word in ready.split()[1:])
            children = Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text().split()
            others = subprocess.run(["pgrep", "-P", str(cluster.pid)], capture_output=True, text=True).stdout.split()
            workers = [pid for pid in sorted({*children, *others}, key=int)
                       if b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            symbols = {pid: Symbols(pid) for pid in workers}
            for streams in options.streams:
                begun, ended = threading.Semaphore(0), threading.Event()
                threads = [threading.Thread(target=stream, args=(values["http"], n, options.tokens, begun, ended)) for n in range(streams)]
                for thread in threads:
                    thread.start()
                for _ in threads:
                    begun.acquire()
                first_steps = steps(values["http"])
                first = {pid: counted(f"{folder}/count.{pid}") for pid in workers}
                time.sleep(options.seconds)
                last = {pid: counted(f"{folder}/count.{pid}") for pid in workers}
                done = max(steps(values["http"]) - first_steps, 1)
                ended.set()
                for thread in threads:
                    thread.join()
                rates.append(show(streams, options, workers, first, last, done, symbols))
        finally:
            cluster.terminate()
            cluster.wait()
    if options.most is not None and max(rates) > options.most:
        sys.exit(f"allocations.py: {max(rates):.2f} allocations in a step, {options.most} are allowed")


def show(streams, options, workers, first, last, done, symbols):
    """Prints what was allocated between two readings. Returns how often the code that computes did, for each step."""
    by_thread, sites, computing = collections.Counter(), collections.Counter(), 0
    for pid in workers:
        for (thread, frames), count in last[pid].items():
            count -= first[pid].get((thread, frames), 0)
            if count <= 0:
                continue
            try:
                name = Path(f"/proc/{pid}/task/{thread}/comm").read_text().strip()
            except OSError:
                name = "ended"
            by_thread[name] += count
            sites[pid, name, frames] += count
    print(f"{streams} streams, {done} steps of a worker: {sum(by_thread.values()) / done:.1f} allocations in each")
    for name, count in by_thread.most_common():
        print(f"  {count / done:8.2f}  {name}")
    merged = collections.Counter()
    for (pid, name, frames), count in sites.items():
        # The runtime's own functions say nothing of who asked.
        names = [symbols[pid].name(frame - 1) for frame in frames]
        computing += count if any(COMPUTING.search(n) for n in names) else 0
        asked = [n for n in names if n.startswith("$s") and not re.match(r"\$s(s|S)", n)] or names
        merged[name, tuple(asked[:3])] += count
    print(f"  {computing / done:8.2f}  of them where steps are computed")
    top = merged.most_common(options.sites)
    known = demangled(sorted({n for (_, names), _ in top for n in names}))
    for (name, names), count in top:
        print(f"  {count / done:8.2f}  {name}: " + " < ".join(known.get(n, n)[:90] for n in names))
    return computing / done


if __name__ == "__main__":
    main()
