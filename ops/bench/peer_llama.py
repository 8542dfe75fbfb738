#!/usr/bin/env python3
"""Measures llama.cpp on a GGUF file the way `tramontane bench` measures Tramontane, under the same names.

Tokens, positions and sequences are the same on both sides: token i is 3 + 7919 i mod (vocabulary - 3), a stream is a
sequence of its own, decode computes the logits of every row and prefill those of the last one. A first decode warms up;
each figure is the median of its repeats. Prints one JSON object.

  peer_llama.py model.gguf --threads 2 --prefill 256 --batch 1 4 16 --decode 16 --repeat 3

With --workers N it measures decoding again over N of llama.cpp's RPC servers, which share threads and layers evenly.

Needs PyPI's llama-cpp-python, which is compiled for the processor it is installed on (compare.sh sees to it), for --workers
with GGML_RPC.
"""

import argparse
import contextlib
import ctypes
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import llama_cpp

# Rows of a prompt in one step, as in Sources/tramontane/Bench/ModelBench.swift.
PREFILL_ROWS = 512


EVERY_LAYER = 999

START_SECONDS = 60


def use_servers(servers):
    """Has llama.cpp put its layers on RPC servers, evenly."""
    if not llama_cpp.llama_supports_rpc():
        raise SystemExit("this llama.cpp was compiled without GGML_RPC")
    ggml = llama_cpp.llama_cpp._lib
    ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    registry = ggml.ggml_backend_reg_by_name(b"RPC")
    name = b"ggml_backend_rpc_add_server"
    address = ggml.ggml_backend_reg_get_proc_address(ctypes.c_void_p(registry), name)
    add_server = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(address)
    for server in servers:
        ggml.ggml_backend_register(ctypes.c_void_p(add_server(server.encode())))


def serve(address, threads):
    """Is an RPC server on this machine's processors, for ever."""
    library = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    ggml = ctypes.CDLL(os.path.join(library, "libggml.so"))
    rpc = ctypes.CDLL(os.path.join(library, "libggml-rpc.so"))
    llama_cpp.llama_backend_init()
    ggml.ggml_backend_dev_by_name.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_name(b"CPU"))
    start = rpc.ggml_backend_rpc_start_server
    start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    start(address.encode(), None, threads, 1, devices)


@contextlib.contextmanager
def running_servers(count, threads):
    """The addresses of so many RPC servers on free ports, threads shared evenly."""
    processes, servers = [], []
    try:
        for _ in range(count):
            with socket.create_server(("127.0.0.1", 0)) as free:
                servers.append(f"127.0.0.1:{free.getsockname()[1]}")
            words = [sys.executable, __file__, "--serve", servers[-1], "--threads", str(max(threads // count, 1))]
            processes.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for server in servers:
            wait_for(server)
        yield servers
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(server):
    host, port = server.split(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"llama.cpp's RPC server does not answer at {server}")
            time.sleep(0.1)


class Peer:
    def __init__(self, path, threads, tokens, streams, servers):
        # llama.cpp keeps the pointer, so the callback must live as long as the process.
        self.silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        if servers:
            use_servers(servers)
            parameters.n_gpu_layers = EVERY_LAYER
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = tokens
        settings.n_batch = settings.n_ubatch = PREFILL_ROWS
        settings.n_seq_max = streams
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise SystemExit(f"{path}: llama.cpp has no memory for {tokens} tokens")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.step([(self.token(0), 0, 0)], {0})

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def token(self, index):
        return 3 + index * 7919 % (self.vocabulary - 3)

    def forget(self):
        llama_cpp.llama_memory_clear(self.memory, True)

    def step(self, rows, logits):
        """One step of (token, position, sequence) rows, with the logits of the rows whose indices are in `logits`."""
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for index, (token, position, sequence) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = index in logits
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_synchronize(self.context)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise SystemExit(f"llama_decode failed with {status}")

    def prefill(self, length):
        """Seconds for a prompt."""
        self.forget()
        start = time.perf_counter()
        for first in range(0, length, PREFILL_ROWS):
            part = range(first, min(first + PREFILL_ROWS, length))
            last = {len(part) - 1} if part.stop == length else set()
            self.step([(self.token(index), index, 0) for index in part], last)
        return time.perf_counter() - start

    def decode(self, streams, steps):
        """Seconds for so many steps of all streams; the first position is not counted."""
        self.forget()
        everyone = set(range(streams))

        def step(position):
            self.step([(self.token(position * 31 + stream), position, stream) for stream in range(streams)], everyone)

        step(0)
        start = time.perf_counter()
        for position in range(1, steps + 1):
            step(position)
        return time.perf_counter() - start


def measure(peer, options, result, prefill=(), suffix=""):
    """Adds the medians to the result."""
    for length in prefill:
        seconds = statistics.median(peer.prefill(length) for _ in range(options.repeat))
        result[f"prefill_{length}{suffix}_tokens_per_second"] = round(length / seconds, 2)
    for width in options.batch:
        seconds = statistics.median(peer.decode(width, options.decode) for _ in range(options.repeat))
        result[f"decode_batch_{width}{suffix}_tokens_per_second"] = round(width * options.decode / seconds, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, nargs="*", default=[256], help="lengths of prompts")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4, 16], help="streams that decode together")
    parser.add_argument("--decode", type=int, default=16, help="decode steps that are timed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="measure over so many RPC servers too")
    parser.add_argument("--serve", metavar="HOST:PORT", help="be an RPC server, and nothing else")
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.threads)
    if not options.model:
        parser.error("the GGUF file is missing")

    streams = max(options.batch + [1])
    tokens = max(options.prefill + [0]) + streams * (options.decode + 8) + 64
    result = {
        "peer": "llama.cpp",
        "version": llama_cpp.__version__,
        "threads": options.threads,
        "model": options.model,
    }
    peer = Peer(options.model, options.threads, tokens, streams, [])
    measure(peer, options, result, prefill=options.prefill)
    peer.close()
    if options.workers:
        with running_servers(options.workers, options.threads) as servers:
            peer = Peer(options.model, options.threads, tokens, streams, servers)
            measure(peer, options, result, suffix=f"_workers_{options.workers}")
            peer.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
