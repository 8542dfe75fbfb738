#!/usr/bin/env python3
"""Asks a cluster something over HTTP and prints the answer as it comes: ask.py HOST:PORT TEXT [MAX_TOKENS]"""

import json
import sys
import urllib.error
import urllib.request


def main():
    address, text = sys.argv[1:3]
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else 80
    body = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": limit,
        "temperature": 0.7,
        "seed": 7,
        "stream": True,
    }
    request = urllib.request.Request(
        f"http://{address}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            for line in response:
                data = line.decode().removeprefix("data: ").strip()
                if not data or data == "[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    sys.exit(f"\n{event['error']['message']}")
                for choice in event["choices"]:
                    print(choice["delta"].get("content") or "", end="", flush=True)
    except urllib.error.HTTPError as error:
        sys.exit(json.load(error)["error"]["message"])
    print()


main()
