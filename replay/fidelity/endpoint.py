"""An OpenAI-compatible endpoint as a client sees it: what it can do, and a streamed answer with its times."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replay.errors import ConfigError
from replay.fidelity.prompts import Count

if TYPE_CHECKING:
    import aiohttp

APIS = {"completions": "completions", "chat": "chat/completions"}
# Where servers count tokens: path below the root, the body's key for the text, other keys; the first that answers.
TOKENIZERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("tokenize", "prompt", {}),  # vLLM
    ("tokenize", "content", {"add_special": True}),  # llama.cpp
    ("extras/tokenize/count", "input", {}),  # llama-cpp-python
)
# Keys beyond OpenAI's that make an answer as long as asked, taken away one by one where a server refuses them.
EXTRAS: dict[str, Any] = {"min_tokens": None, "ignore_eos": True}
REFUSED = (400, 404, 422)
PROBE_TOKENS = 2
LINE_BYTES = 2**20
NOTHING = "no token came back"


@dataclass
class Answer:
    """What came back for one request; times by time.perf_counter.

    token_s : when each piece of the answer came, mostly a token each
    prompt_tokens, output_tokens : as the server states them, None where it does not
    """

    sent_s: float = 0.0
    token_s: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    finish_s: float | None = None  # when the server said that it was done

    def close(self) -> None:
        """Settle an answer whose last tokens came without text, as halves of a character do, or that had none."""
        if self.error is None and self.finish_s is not None and len(self.token_s) < (self.output_tokens or 0):
            self.token_s.append(self.finish_s)
        if self.error is None and not self.token_s:
            self.error = NOTHING


class Endpoint:
    """Sends prompts to one model of a server.

    extras : keys beyond OpenAI's that the server takes; counts: whether it states token counts in a stream
    """

    def __init__(self, http: "aiohttp.ClientSession", url: str, model: str | None, api: str = "completions") -> None:
        self.http, self.url, self.model, self.api = http, url.rstrip("/"), model, api
        self.root = self.url.removesuffix("/v1")
        self.extras, self.counts = dict(EXTRAS), True

    async def find(self) -> None:
        """Find the model, and the keys that the server takes, by requests of two tokens that also warm it up.

        raises : ConfigError if nothing answers there, or no request is taken
        """
        listed = await self._json("GET", f"{self.url}/models")
        names = [str(one.get("id")) for one in listed.get("data", [])] if isinstance(listed, dict) else []
        if self.model is None:
            if not names:
                raise ConfigError(f"the endpoint must list its models, but {self.url}/models does not. Name one: "
                                  f"model=NAME.")  # fmt: skip
            self.model = names[0]
        while True:
            answer = await self.complete("a b c d", PROBE_TOKENS)
            if answer.error in (None, NOTHING):
                self.counts = answer.prompt_tokens is not None
                return
            refused = str(answer.error).startswith(tuple(f"HTTP {code}" for code in REFUSED))
            if refused and self.extras:
                del self.extras[next(iter(self.extras))]
            elif refused and self.counts:
                self.counts = False
            else:
                raise ConfigError(f"the endpoint must answer a request of {PROBE_TOKENS} tokens to {self.model}, but "
                                  f"says: {answer.error}.")  # fmt: skip

    async def tokenizer(self) -> Count | None:
        """Return a function that counts tokens on the server, None where it has none."""
        for path, key, more in TOKENIZERS:
            async def count(text: str, path: str = path, key: str = key, more: Mapping[str, Any] = more) -> int:
                found = await self._json("POST", f"{self.root}/{path}", {"model": self.model, key: text, **more})
                if not isinstance(found, dict):
                    return 0
                return int(found["count"]) if "count" in found else len(found.get("tokens", []))

            if await count("one two three four") > 0:
                return count
        return None

    async def charged(self, text: str) -> int:
        """Return the prompt tokens that the server states for a text, as it will for real requests."""
        answer = await self.complete(text, PROBE_TOKENS)
        if answer.prompt_tokens is None:
            raise ConfigError(f"the endpoint must state the tokens of a prompt, but says: {answer.error or 'nothing'}.")
        return answer.prompt_tokens

    async def slots(self) -> int | None:
        """Return how many requests a llama.cpp server runs at once, None for other servers."""
        found = await self._json("GET", f"{self.root}/props")
        slots = found.get("total_slots") if isinstance(found, dict) else None
        return slots if isinstance(slots, int) else None

    async def complete(self, text: str, output_tokens: int) -> Answer:
        """Send a prompt and take its streamed answer to the end; an error of any kind is part of the answer."""
        import aiohttp

        answer = Answer(sent_s=time.perf_counter())
        try:
            async with self.http.post(f"{self.url}/{APIS[self.api]}", json=self._body(text, output_tokens)) as response:
                if response.status != 200:
                    reason = " ".join((await response.text()).split())[:200]
                    answer.error = f"HTTP {response.status}: {reason}"
                    return answer
                async for line in response.content:
                    _take(answer, line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            answer.error = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
        answer.close()
        return answer

    def _body(self, text: str, output_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "max_tokens": output_tokens, "temperature": 0, "stream": True}
        body |= {"prompt": text} if self.api == "completions" else {"messages": [{"role": "user", "content": text}]}
        body |= {key: output_tokens if value is None else value for key, value in self.extras.items()}
        return body | ({"stream_options": {"include_usage": True}} if self.counts else {})

    async def _json(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return what a path answers, {} where it answers no JSON; raise ConfigError where nothing answers."""
        import aiohttp

        try:
            async with self.http.request(method, url, json=body) as response:
                return json.loads(await response.text()) if response.status == 200 else {}
        except (ValueError, UnicodeError):
            return {}
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"an endpoint must answer at {self.url}, but: {reason}. Start the server, or mend "
                              f"url=http://HOST:PORT/v1.") from None  # fmt: skip


def headers() -> dict[str, str]:
    """Return the headers of every request: the key of the environment's OPENAI_API_KEY, if there is one."""
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _take(answer: Answer, line: bytes) -> None:
    """Note what one line of a stream of server-sent events says, and when."""
    now_s = time.perf_counter()
    if not line.startswith(b"data:") or (data := line[5:].strip()) == b"[DONE]":
        return
    event = json.loads(data)
    if not isinstance(event, dict) or event.get("error"):
        error = event.get("error") if isinstance(event, dict) else event
        answer.error = str(error.get("message", error) if isinstance(error, dict) else error)[:200]
        return
    usage = event.get("usage")
    if isinstance(usage, dict):
        answer.prompt_tokens = usage.get("prompt_tokens", answer.prompt_tokens)
        answer.output_tokens = usage.get("completion_tokens", answer.output_tokens)
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or delta.get("reasoning_content")
        if text or (choice.get("finish_reason") is None and "role" not in delta):  # half a character may have no text
            answer.token_s.append(now_s)
        if choice.get("finish_reason") is not None:
            answer.finish_s = now_s
