"""Asks a cluster with OpenAI's own client, whole and streamed: openai_client.py BASE_URL

Reads lines of JSON {"prompt", "temperature", "seed", "max_tokens"} and prints a line of JSON with the texts for each.
"""

import json
import sys

from openai import OpenAI


def main():
    client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60)
    model = client.models.list().data[0].id
    for line in sys.stdin:
        print(json.dumps(ask(client, model, json.loads(line))))


def ask(client, model, common):
    prompt = common.pop("prompt")
    common["model"] = model
    # Fields that OpenAI does not have, as vLLM's users send them.
    common["extra_body"] = {"priority": -1, "deadline_ms": 60_000}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    messages = [{"role": "user", "content": prompt}]

    completion = client.completions.create(prompt=prompt, **common)
    chat = client.chat.completions.create(messages=messages, **common)
    usages = []

    def text_of(stream, part):
        text = ""
        for chunk in stream:
            if chunk.usage:
                usages.append(chunk.usage)
            for choice in chunk.choices:
                text += part(choice) or ""
        return text

    completion_streamed = text_of(
        client.completions.create(prompt=prompt, **common, **streamed), lambda choice: choice.text
    )
    chat_streamed = text_of(
        client.chat.completions.create(messages=messages, **common, **streamed), lambda choice: choice.delta.content
    )
    return {
        "completion": completion.choices[0].text,
        "completion_streamed": completion_streamed,
        "chat": chat.choices[0].message.content,
        "chat_streamed": chat_streamed,
        "usage_agrees": [usage.total_tokens for usage in usages]
        == [completion.usage.total_tokens, chat.usage.total_tokens],
        "cached_tokens": [usage.prompt_tokens_details.cached_tokens for usage in usages],
    }


main()
