"""Asks a cluster with OpenAI's own client, whole and streamed, and prints the texts as one JSON object.

openai_client.py BASE_URL PROMPT TEMPERATURE SEED MAX_TOKENS
"""

import json
import sys

from openai import OpenAI


def main():
    base_url, prompt = sys.argv[1:3]
    temperature, seed, max_tokens = float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    client = OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=60)
    model = client.models.list().data[0].id
    common = {"model": model, "temperature": temperature, "seed": seed, "max_tokens": max_tokens}
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
    print(
        json.dumps(
            {
                "completion": completion.choices[0].text,
                "completion_streamed": completion_streamed,
                "chat": chat.choices[0].message.content,
                "chat_streamed": chat_streamed,
                "usage_agrees": [usage.total_tokens for usage in usages]
                == [completion.usage.total_tokens, chat.usage.total_tokens],
            }
        )
    )


main()
