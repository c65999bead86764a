"""LiteLLM as a client, run by a Python of its own (scripts/peers.sh): prints, as JSON, what it got. Arguments: URL of /v1, token, model."""

import asyncio
import json
import sys
from typing import Any

import litellm

BASE, TOKEN, MODEL = sys.argv[1:]
COMMON: dict[str, Any] = {
    "model": f"openai/{MODEL}",
    "api_base": BASE,
    "api_key": TOKEN,
    "messages": [{"role": "user", "content": "What is AI?"}],
    "max_tokens": 12,
    "temperature": 0,
}


async def _later() -> str:
    stream = await litellm.acompletion(**COMMON, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def main() -> None:
    """Ask in every way that it has."""
    whole = litellm.completion(**COMMON)
    stream = list(litellm.completion(**COMMON, stream=True, stream_options={"include_usage": True}))
    text = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}",
        prompt="AI is",
        api_base=BASE,
        api_key=TOKEN,
        max_tokens=12,
        temperature=0,
    )
    said = [*COMMON["messages"], whole.choices[0].message, *COMMON["messages"]]
    then = litellm.completion(**COMMON | {"messages": said})
    try:
        litellm.completion(**COMMON | {"model": "openai/nowhere"})
        refused = ""
    except litellm.NotFoundError as error:
        refused = str(error)
    got = {
        "id": whole.id,
        "whole": whole.choices[0].message.content,
        "finish_reason": whole.choices[0].finish_reason,
        "usage": whole.usage.total_tokens,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices),
        "streamed_usage": stream[-1].usage.total_tokens,
        "later": asyncio.run(_later()),
        "text": text.choices[0].text,
        "then": then.usage.prompt_tokens,
        "refused": refused,
    }
    json.dump(got, sys.stdout)


if __name__ == "__main__":
    main()
