#!/usr/bin/env python3
"""Measures how Tramontane serves many, scenario by scenario, and prints a table and a line of JSON for each:

    ops/bench/serve.py [added] [demo] [mini] [prefix] [overload] [flood] [--seconds S] [--mini MODEL] [--json FILE]

Without a name it is all of them. TRAMONTANE names the program (default: .build/release/tramontane).

added     what coordinator and gateway add to a token: 64 streams, workers that sleep instead of computing; beside burst.c
demo      the demo model as q8_0, completions of 200 tokens: one worker of 2 threads with 1, 32 and 64 clients, 4 workers with 64
mini      4 workers (2 x 2) with 64 clients beside one process of 2 threads at the same rows per step, without any network
prefix    100 requests with the same 2,000 tokens at their beginning, over 4 lanes
overload  10 times the load that sleeping workers can take, beside requests at a low rate that show the way back
flood     nine light tenants, alone and beside one that floods; sleeping workers

--seconds is how long overload lasts (default 60); flood takes a third of it twice. Every process that is started ends with this one.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TRAMONTANE = os.environ.get("TRAMONTANE", str(ROOT / ".build/release/tramontane"))
SCENARIOS = ["added", "demo", "mini", "prefix", "overload", "flood"]


def tramontane(*arguments):
    """A command's standard output. What it says on standard error is passed on."""
    return subprocess.run([TRAMONTANE, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True).stdout


@contextlib.contextmanager
def running(*arguments):
    """A daemon that prints `ready NAME=VALUE …`; gives these values."""
    process = subprocess.Popen([TRAMONTANE, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                yield dict(word.split("=", 1) for word in line.split()[1:])
                return
        sys.exit(f"serve.py: {arguments[0]} did not start")
    finally:
        process.terminate()
        process.wait()


def load(http, *arguments):
    """Starts `bench serve`; `report` waits for what it says."""
    command = [TRAMONTANE, "bench", "serve", "--url", f"http://{http}", "--json", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report(process):
    output, errors = process.communicate()
    if not output:
        sys.exit(f"serve.py: bench serve said nothing: {errors.strip()}")
    return json.loads(output)


def serve(http, *arguments):
    return report(load(http, *arguments))


def table(rows):
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(flush=True)


def resident_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def added(_, folder):
    burst = folder / "burst"
    subprocess.run(["cc", "-O2", "-o", burst, ROOT / "ops/bench/burst.c", "-lpthread"], check=True)
    # In turn, because a shared machine's rate drifts by a third within a minute.
    runs, floors = [], []
    for _ in range(5):
        runs.append(json.loads(tramontane("bench", "coordinator", "--model", demo_model(folder), "--streams", 64, "--json")))
        floors.append([float(word) for word in subprocess.run([burst], stdout=subprocess.PIPE, text=True, check=True).stdout.split()])
    found = {"runs": runs, "floor_p50_p90_p99_ms": floors}

    def median(name):
        return round(statistics.median(run[name] for run in runs), 3)

    rows = [["64 streams, workers that sleep 10 ms, medians of 5 runs", "p50", "p99"]]
    for name, words in [("result_to_client_ms", "result to client, ms"), ("result_to_next_step_ms", "result to next step, ms")]:
        rows.append([words, median(f"p50_{name}"), median(f"p99_{name}")])
    rows.append([
        "a C program that only passes the bytes, in turn, ms", *[round(statistics.median(floor[place] for floor in floors), 3) for place in (0, 2)]])
    rows.append(["coordinator, µs of processor a token", median("coordinator_cpu_us_per_token"), ""])
    table(rows)
    return found


def demo_model(folder):
    """The demo as q8_0, imported once."""
    manifest = folder / "store/manifests/demo-q8_0.json"
    if not manifest.exists():
        tramontane(
            "import", ROOT / "cluster/demo", "--quantize", "q8_0", "--store", folder / "store", "--name", "demo-q8_0")
    return manifest


def up(model, workers, stages, *arguments):
    return running(
        "up", "--model", model, "--workers", workers, "--stages", stages, "--http", "127.0.0.1:0",
        "--listen", "127.0.0.1:0", "--log-level", "warning", *arguments)


def demo(_, folder):
    model = demo_model(folder)
    rows = [["demo as q8_0, 200 tokens", "tokens/s", "first token p50, ms", "p99", "a token p50, ms", "failed"]]
    found = {}
    for workers, stages, threads, clients in [(1, 1, 2, [1, 32, 64]), (4, 2, 1, [64])]:
        with up(model, workers, stages, "--threads", threads, "--pages", 2048) as cluster:
            arguments = ["--prompt-tokens", 32, "--output-tokens", 200]
            serve(cluster["http"], *arguments, "--concurrency", 8, "--requests", 16, "--seed", 99)
            for count in clients:
                one = serve(
                    cluster["http"], *arguments, "--concurrency", count, "--requests", max(16, 16 * count), "--seed", count)
                name = f"workers_{workers}_clients_{count}"
                found[name] = one
                rows.append([
                    f"{workers} worker{'s' if workers > 1 else ''}, {count} client{'s' if count > 1 else ''}",
                    one["output_throughput"], one.get("p50_ttft_ms"), one.get("p99_ttft_ms"), one.get("p50_tpot_ms"),
                    one["failed"],
                ])
    table(rows)
    return found


def accounting(listen):
    """Sums over the workers of what they have done."""
    workers = json.loads(tramontane("status", "--cluster", listen, "--json"))["workers"]
    sums = {}
    for worker in workers:
        for name in ["steps", "rows", "expert_products", "expert_rows"]:
            sums[name] = sums.get(name, 0) + worker["accounting"][name]
    return sums


def mini(options, folder):
    model = options.mini
    if model is None:
        model = folder / "store/manifests/mini.json"
        if not model.exists():
            tramontane(
                "import", "--synthetic", "mini", "--type", "q4_K", "--store", folder / "store", "--name", "mini")

    def one_process(batch, tokens):
        """Tokens a second of prompts and answers, as many of each as a load had."""
        found = json.loads(tramontane(
            "bench", "--model", model, "--threads", 2, "--prefill", 256, "--batch", batch, "--decode", 48, "--repeat", 3,
            "--json"))
        prompts, answers = tokens["total_input_tokens"], tokens["total_output_tokens"]
        seconds = prompts / found["prefill_256_tokens_per_second"] + answers / found[f"decode_batch_{batch}_tokens_per_second"]
        return (prompts + answers) / seconds

    with up(model, 4, 2, "--threads", 1, "--pages", 4096) as cluster:
        arguments = ["--concurrency", 64, "--prompt-tokens", 16]
        serve(cluster["http"], *arguments, "--requests", 64, "--output-tokens", 8, "--seed", 1)

        def served(seed):
            return serve(cluster["http"], *arguments, "--requests", 64, "--output-tokens", 200, "--seed", seed)

        before = accounting(cluster["listen"])
        many = [served(2)]
        after = accounting(cluster["listen"])
        done = {name: after[name] - before[name] for name in after}
        rows_per_step = done["rows"] / max(done["steps"], 1)
        batch = max(1, round(rows_per_step))
        # In turn, because a shared machine's rate drifts by a third within a minute.
        one = [one_process(batch, many[0])]
        for seed in range(3, 6):
            many.append(served(seed))
            one.append(one_process(batch, many[-1]))
    ratios = [
        of["total_token_throughput"] / ((before + after) / 2) for of, before, after in zip(many[1:], one, one[1:])]
    found = {
        "cluster": many, "rows_per_step": rows_per_step,
        "rows_per_expert_product": done["expert_rows"] / max(done["expert_products"], 1),
        "one_process_tokens_per_second": one, "of_one_process": ratios,
    }
    table([
        ["mini, 64 clients, 200 tokens", "", "", ""],
        ["4 workers (2 x 2), tokens/s", *[round(of["total_token_throughput"], 1) for of in many[1:]]],
        ["rows per step", round(rows_per_step, 1), "", ""],
        ["rows per expert product", round(found["rows_per_expert_product"], 2), "", ""],
        [f"one process, 2 threads, {batch} rows per step, before each", *[round(rate, 1) for rate in one[:-1]]],
        ["the same, after each", *[round(rate, 1) for rate in one[1:]]],
        ["ratio", *[round(ratio, 3) for ratio in ratios]],
    ])
    return found


def prefix(_, folder):
    shared, tokens, requests, lanes = 2000, 2016, 100, 4
    with up(demo_model(folder), lanes, 1, "--threads", 1, "--pages", 4096) as cluster:
        one = serve(
            cluster["http"], "--requests", requests, "--concurrency", 16, "--prompt-tokens", tokens, "--shared-prefix", shared,
            "--output-tokens", 16, "--seed", 11)
    computed = one["total_input_tokens"] - one["total_cached_tokens"]
    # What is not shared, and what is in no whole page of 32, is computed for each request.
    own = requests * (tokens - shared // 32 * 32)
    found = {"load": one, "computed_tokens": computed, "prefixes_computed": (computed - own) / (shared // 32 * 32)}
    table([
        [f"{requests} requests, {shared} of {tokens} tokens shared, {lanes} lanes", ""],
        ["prompt tokens computed", computed],
        ["times that the prefix was computed", round(found["prefixes_computed"], 2)],
        ["first token p50, ms", one.get("p50_ttft_ms")],
        ["first token p99, ms", one.get("p99_ttft_ms")],
    ])
    return found


def sleeping(folder, *arguments):
    """A cluster whose workers sleep 20 ms a step: 64 answers of 50 tokens take a little more than a second."""
    return running("bench", "coordinator", "--model", demo_model(folder), "--sleep-ms", 20, "--hold", *arguments)


SHORT = ["--prompt-tokens", 32, "--output-tokens", 50]


def overload(options, folder):
    bounds = ["--goodput-ttft", 10_000, "--goodput-tpot", 60]
    with sleeping(folder) as cluster:
        serve(cluster["http"], *SHORT, "--concurrency", 64, "--requests", 128, "--seed", 1)
        most = serve(cluster["http"], *SHORT, *bounds, "--concurrency", 64, "--duration", options.seconds / 6, "--seed", 2)
        before = resident_bytes(cluster["pid"])
        began = time.monotonic()
        flood = load(
            cluster["http"], *SHORT, *bounds, "--rate", 10 * most["request_throughput"], "--duration", options.seconds,
            "--seed", 3, "--save-detailed")
        # After the load's end only these are left: when they are answered at once again, the way back is over.
        probe = load(
            cluster["http"], "--prompt-tokens", 8, "--output-tokens", 2, "--rate", 20, "--duration", options.seconds + 15,
            "--seed", 4, "--api-key", "probe", "--save-detailed")
        offset = time.monotonic() - began
        flood, probe = report(flood), report(probe)
        after = resident_bytes(cluster["pid"])
    # Goodput of the time in which requests arrived: answers that were complete and good by its end.
    good = sum(
        tokens for tokens, start, end, first, each, error in zip(
            flood["output_lens"], flood["start_times"], flood["e2els"], flood["ttfts"], flood["tpots"],
            flood["request_errors"])
        if not error and start + end <= options.seconds and first <= 10 and each <= 0.06) / options.seconds
    slow = [
        start + offset for start, first, error in zip(probe["start_times"], probe["ttfts"], probe["request_errors"])
        if error or first > 0.2
    ]
    recovery = max(0.0, max(slow, default=0) - options.seconds)
    refusals = {name: count for name, count in flood["errors"].items() if name.startswith("429")}
    for name in ["start_times", "ttfts", "tpots", "e2els", "output_lens", "request_errors"]:
        flood.pop(name), probe.pop(name)
    found = {
        "maximum": most, "flood": flood, "probe": probe, "goodput": good,
        "goodput_of_maximum": good / most["output_goodput"], "resident_bytes_before": before,
        "resident_bytes_after": after, "refusals_429": sum(refusals.values()),
        "other_failures": flood["failed"] - sum(refusals.values()), "recovery_seconds": recovery,
    }
    table([
        [f"10 times the load for {options.seconds} s", ""],
        ["most that it answers, tokens/s", most["output_goodput"]],
        ["goodput under overload, tokens/s", round(good, 1)],
        ["ratio", round(found["goodput_of_maximum"], 3)],
        ["requests a second", round(10 * most["request_throughput"], 1)],
        ["answered 429", found["refusals_429"]],
        ["failed otherwise", {key: count for key, count in flood["errors"].items() if key not in refusals} or 0],
        ["429 p50, ms", flood.get("p50_rejection_ms")],
        ["429 p99, ms", flood.get("p99_rejection_ms")],
        ["memory before, MiB", before >> 20],
        ["memory after, MiB", after >> 20],
        ["slow requests after the end, s", round(recovery, 2)],
    ])
    return found


def flood(options, folder):
    seconds = options.seconds / 3
    light = [*SHORT, "--tenants", 9, "--rate", 9, "--duration", seconds]
    with sleeping(folder) as cluster:
        serve(cluster["http"], *SHORT, "--concurrency", 64, "--requests", 128, "--seed", 1)
        alone = serve(cluster["http"], *light, "--seed", 2)
        heavy = load(
            cluster["http"], *SHORT, "--rate", 300, "--duration", seconds + 2, "--api-key", "flood", "--seed", 3)
        time.sleep(1)
        beside = serve(cluster["http"], *light, "--seed", 2)
        heavy = report(heavy)
    found = {"alone": alone, "beside": beside, "heavy": heavy}
    rows = [["nine light tenants, 1 request/s each", "alone", "beside a flood", "ratio"]]
    for name, words in [("ttft", "first token p99, ms"), ("tpot", "a token p99, ms"), ("e2el", "end to end p99, ms")]:
        one, two = alone.get(f"p99_{name}_ms"), beside.get(f"p99_{name}_ms")
        found[f"p99_{name}_ratio"] = two / one if one and two else None
        rows.append([words, one, two, round(two / one, 2) if one and two else "-"])
    rows.append(["failed", alone["failed"], beside["failed"], ""])
    rows.append(["the flood's answers and failures", "", f"{heavy['completed']}, {heavy['failed']}", ""])
    table(rows)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--mini", help="a model in place of the synthetic mini one")
    parser.add_argument("--json", help="a file that a line of JSON for each scenario is appended to")
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.scenarios or SCENARIOS:
            print(f"# {name}", flush=True)
            found = globals()[name](options, Path(folder))
            if options.json:
                with open(options.json, "a") as file:
                    file.write(json.dumps({"scenario": name, "date": time.strftime("%Y-%m-%d"), **found}) + "\n")


if __name__ == "__main__":
    main()
