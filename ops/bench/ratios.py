#!/usr/bin/env python3
"""Prints what lines of JSON by `tramontane bench` and peer_llama.py say of each other: ratios.py RESULTS

Every figure is the median over the lines of its side.
"""

import json
import statistics
import sys

SUFFIX = "_tokens_per_second"


def table(lines):
    """The table, as a list of rows of cells."""
    ours = [line for line in lines if "peer" not in line]
    peers = [line for line in lines if "peer" in line]
    if not ours or not peers:
        raise SystemExit("ratios.py: a side has no results")

    def median(side, name):
        values = [line[name] for line in side if name in line]
        return statistics.median(values) if values else None

    names = [name for name in peers[0] if name.endswith(SUFFIX)]
    rows = [["tokens a second", "tramontane", peers[0]["peer"], "ratio", "of its floor", "bound by", "of one process"]]
    for name in names:
        figure = name.removesuffix(SUFFIX)
        our, peer = median(ours, name), median(peers, name)
        if our is None:
            continue
        fraction = median(ours, f"{figure}_fraction_of_floor")
        whole = median(ours, f"{figure}_of_one_process")
        rows.append(
            [
                figure.replace("_", " "),
                f"{our:.2f}",
                f"{peer:.2f}",
                f"{our / peer:.2f}",
                "" if fraction is None else f"{100 * fraction:.0f}%",
                next((line[f"{figure}_bound"] for line in ours if f"{figure}_bound" in line), ""),
                "" if whole is None else f"{whole:.2f}",
            ]
        )
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return rows


def text(rows):
    """A table in Markdown, which also reads well as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main():
    if len(sys.argv) != 2:
        raise SystemExit("usage: ratios.py RESULTS")
    with open(sys.argv[1]) as file:
        lines = [json.loads(line) for line in file if line.strip()]
    rows = table(lines)
    first = next(line for line in lines if "peer" not in line)
    peer = next(line for line in lines if "peer" in line)
    print(
        f"{first['model_name']}, {first['threads']} threads, {first['instruction_set']}; {peer['peer']} by "
        f"llama-cpp-python {peer['version']}"
    )
    bandwidth = statistics.median(line["read_bytes_per_second"] for line in lines if "peer" not in line)
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s, medians of {sum('peer' not in line for line in lines)} rounds")
    print()
    print(text(rows))


if __name__ == "__main__":
    main()
