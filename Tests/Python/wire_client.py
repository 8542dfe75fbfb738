#!/usr/bin/env python3
"""A Tramontane client written from docs/wire-protocol.md and protos/ alone.

Needs Python 3.9 and grpcio-tools (for protoc and the protobuf runtime), nothing else. The messages are generated into a
temporary folder at every start. Prints one JSON object and exits with 0, or says what went wrong and exits with 1.
"""

import argparse
import importlib
import json
import pathlib
import socket
import struct
import sys
import tempfile

HEADER = struct.Struct("<4sBBHIIQQ")
MAGIC = b"TRMN"
MAJOR, MINOR = 1, 0
MAXIMUM_PAYLOAD = 64 << 20

HELLO, WELCOME, ERROR, PING, PONG = 1, 2, 3, 4, 5
GENERATE, ACCEPTED, DELTA, FINISHED, FAILED, CANCEL, CREDIT = 64, 65, 66, 67, 68, 69, 70
STATUS, STATUS_REPORT = 73, 74


class ProtocolError(Exception):
    """The server did not keep to the document."""


class RequestError(Exception):
    """The server said no."""


def crc32c_table():
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = crc32c_table()


def crc32c(*parts):
    value = 0xFFFFFFFF
    for part in parts:
        for byte in part:
            value = (value >> 8) ^ CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def load_messages(protos):
    """Generates the Python messages and imports them; the temporary folder lives as long as the process."""
    from grpc_tools import protoc

    folder = tempfile.TemporaryDirectory(prefix="tramontane-protos-")
    names = ["common", "client", "cluster"]
    files = [str(protos / "tramontane" / "v1" / f"{name}.proto") for name in names]
    if protoc.main(["protoc", f"-I{protos}", f"--python_out={folder.name}", *files]) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, folder.name)
    common, client = (importlib.import_module(f"tramontane.v1.{name}_pb2") for name in names[:2])
    return common, client, folder


def encode(kind, payload=b"", correlation=0, epoch=0):
    head = HEADER.pack(MAGIC, MAJOR, MINOR, kind, len(payload), 0, correlation, epoch)
    checksum = crc32c(head[:12], head[16:], payload)
    return HEADER.pack(MAGIC, MAJOR, MINOR, kind, len(payload), checksum, correlation, epoch) + payload


class Connection:
    """Frames over a socket."""

    def __init__(self, host, port, timeout):
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind, message=None, correlation=0):
        payload = b"" if message is None else message.SerializeToString()
        self.socket.sendall(encode(kind, payload, correlation))

    def receive_exactly(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(min(count - len(data), 1 << 16))
            if not piece:
                raise ProtocolError("the connection ended without a terminal frame")
            data += piece
        return bytes(data)

    def receive(self):
        """The next frame that is not a matter of the connection itself: (kind, correlation, payload)."""
        while True:
            head = self.receive_exactly(HEADER.size)
            magic, major, minor, kind, length, checksum, correlation, _ = HEADER.unpack(head)
            if magic != MAGIC:
                raise ProtocolError(f"frame starts with {magic!r}")
            if major != MAJOR:
                raise ProtocolError(f"major version {major}")
            if length > MAXIMUM_PAYLOAD:
                raise ProtocolError(f"payload of {length} bytes")
            payload = self.receive_exactly(length)
            if crc32c(head[:12], head[16:], payload) != checksum:
                raise ProtocolError("wrong checksum")
            known = kind in (WELCOME, ERROR, PING, PONG, ACCEPTED, DELTA, FINISHED, FAILED, STATUS_REPORT)
            if not known:
                if minor > MINOR:
                    continue
                raise ProtocolError(f"kind {kind} is not one of version {major}.{minor} for a client")
            if kind == PING:
                self.socket.sendall(encode(PONG, correlation=correlation))
            elif kind != PONG:
                return kind, correlation, payload


class Client:
    def __init__(self, arguments):
        self.common, self.client, self.folder = load_messages(arguments.protos)
        self.connection = Connection(arguments.host, arguments.port, arguments.timeout)
        hello = self.common.Hello(role=self.common.Hello.ROLE_CLIENT, minor_version=MINOR, name="wire_client.py")
        self.connection.send(HELLO, hello)
        kind, _, payload = self.receive()
        if kind != WELCOME:
            raise ProtocolError(f"kind {kind} came where a welcome was due")
        welcome = self.common.Welcome.FromString(payload)
        if welcome.maximum_payload_bytes == 0:
            raise ProtocolError("the welcome names no maximum payload")

    def receive(self):
        kind, correlation, payload = self.connection.receive()
        if kind == ERROR:
            failure = self.common.Failure.FromString(payload)
            raise RequestError(f"{failure.code}: {failure.message}")
        return kind, correlation, payload

    def generate(self, arguments):
        window = 8
        request = self.client.GenerateRequest(credit=window)
        if arguments.chat:
            request.chat.messages.add(role="user", content=arguments.prompt)
        else:
            request.text = arguments.prompt
        for name in ("temperature", "seed", "max_tokens"):
            value = getattr(arguments, name)
            if value is not None:
                setattr(request, name, value)
        stream = 1
        self.connection.send(GENERATE, request, stream)

        accepted, credit, taken = None, window, 0
        text, ids = "", []
        while True:
            kind, correlation, payload = self.receive()
            if correlation != stream:
                raise ProtocolError(f"kind {kind} for stream {correlation}, which was never opened")
            if kind == FAILED:
                failure = self.common.Failure.FromString(payload)
                raise RequestError(f"{failure.code}: {failure.message}")
            if kind == ACCEPTED and accepted is None:
                accepted = self.client.Accepted.FromString(payload)
            elif kind == DELTA and accepted is not None:
                credit -= 1
                if credit < 0:
                    raise ProtocolError("a delta came without credit")
                delta = self.client.Delta.FromString(payload)
                text += delta.text
                ids += delta.tokens
                taken += 1
                if taken == window // 2:
                    self.connection.send(CREDIT, self.client.Credit(frames=taken), stream)
                    credit += taken
                    taken = 0
            elif kind == FINISHED and accepted is not None:
                finished = self.client.Finished.FromString(payload)
                reasons = {
                    self.client.Finished.REASON_STOP: "stop",
                    self.client.Finished.REASON_LENGTH: "length",
                    self.client.Finished.REASON_CANCELLED: "cancelled",
                }
                if finished.reason not in reasons:
                    raise ProtocolError(f"reason {finished.reason}")
                return {
                    "text": text,
                    "ids": ids,
                    "finish_reason": reasons[finished.reason],
                    "seed": accepted.seed,
                    "prompt_tokens": finished.prompt_tokens,
                    "completion_tokens": finished.completion_tokens,
                }
            else:
                raise ProtocolError(f"kind {kind} out of place")

    def status(self):
        self.connection.send(STATUS, self.client.StatusRequest(), 2)
        kind, correlation, payload = self.receive()
        if kind != STATUS_REPORT or correlation != 2:
            raise ProtocolError(f"kind {kind} for {correlation} came where a status report was due")
        report = self.client.StatusResponse.FromString(payload)
        return {
            "coordinator": report.coordinator,
            "ready": report.ready,
            "model": report.model,
            "epoch": report.epoch,
            "workers": [{"name": worker.name, "state": worker.state} for worker in report.workers],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--prompt", default="", help="the text to continue")
    parser.add_argument("--chat", action="store_true", help="the prompt is a user's turn of a chat")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--status", action="store_true", help="ask for the cluster's status instead")
    parser.add_argument("--timeout", type=float, default=60, help="seconds of silence that are too long")
    parser.add_argument(
        "--protos", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2] / "protos"
    )
    arguments = parser.parse_args()
    try:
        client = Client(arguments)
        answer = client.status() if arguments.status else client.generate(arguments)
    except (ProtocolError, RequestError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
