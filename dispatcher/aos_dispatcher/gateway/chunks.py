"""Answers in the form of OpenAI's API, with DBC's fields beside: whole ones, and the chunks of streamed ones. No I/O."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from aos_dispatcher.errors import ApiError
from aos_dispatcher.gateway.errors import gateway_body
from aos_dispatcher.tables import JsonObject
from aos_protocol.messages import JobResult, TokenLogprob

SUCCESS: JsonObject = {"code": 0, "message": "success"}
"""What DBC's clients look for in an answer that is no error."""

DONE = b"data: [DONE]\n\n"
"""The end of a stream that did not fail."""


@dataclass(frozen=True)
class Ending:
    """What is known of an answer once its result is there. Counts are None where the backend did not tell."""

    text: str
    finish_reason: str
    stop_reason: int | str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    logprobs: Sequence[TokenLogprob]
    aos: JsonObject


def evidence_path(job_id: str) -> str:
    """Return where a job's evidence is."""
    return f"/api/job/evidence/{job_id}"


def ending(result: JobResult, stop: Sequence[str]) -> Ending:
    """Read a verified result; `stop` are the sequences that the request named.

    Which of several stop sequences ended an answer is in no evidence, so it is told only where there was but one.
    """
    run = result.transcript or result.record or {}
    finish, tokens = run.get("finish_reason", "eos"), run.get("output_tokens")
    reason: int | str | None = None
    if finish == "eos" and tokens:
        reason = tokens[-1]
    elif finish == "stop" and len(stop) == 1:
        reason = stop[0]
    prompt = run.get("prompt_tokens")
    return Ending(
        text=result.result,
        finish_reason="length" if finish == "length" else "stop",
        stop_reason=reason,
        prompt_tokens=len(prompt) if isinstance(prompt, list) else prompt,
        completion_tokens=run.get("completion_tokens") if tokens is None else len(tokens),
        logprobs=result.logprobs or (),
        aos={
            "job_id": result.job_id,
            "evidence": evidence_path(result.job_id),
            "operator": result.operator,
            "level": run.get("level", "fingerprints"),
            "model_sha256": result.model.sha256,
        },
    )


def usage(endings: Sequence[Ending]) -> JsonObject | None:
    """Add up what was used; None when a backend did not tell all of it. A prompt counts once for each answer: each was a job."""
    prompts = [each.prompt_tokens for each in endings]
    answers = [each.completion_tokens for each in endings]
    if None in prompts or None in answers:
        return None
    prompt, answer = sum(filter(None, prompts)), sum(filter(None, answers))
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def aos_member(endings: Sequence[Ending]) -> JsonObject:
    """Return the answer's `aos` member: of one job its facts, of several a list of them, in the order of choices."""
    return endings[0].aos if len(endings) == 1 else {"jobs": [each.aos for each in endings]}


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> JsonObject | None:
    """Return what a chat shows of its tokens; None when nothing was told of them."""
    return {"content": [_chat_token(token) for token in tokens], "refusal": None} if tokens else None


def text_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> JsonObject | None:
    """Return what a completion shows of its tokens, the first of which begins `offset` characters into the text."""
    if not tokens:
        return None
    starts = [offset]
    for token in tokens[:-1]:
        starts.append(starts[-1] + len(token.token))
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": starts,
    }


def _chat_token(token: TokenLogprob) -> JsonObject:
    likeliest = [_token(text, logprob) for text, logprob in token.top]
    return _token(token.token, token.logprob) | {"top_logprobs": likeliest}


def _token(text: str, logprob: float) -> JsonObject:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


@dataclass
class Rendering:
    """One request's answer, as it is told: whole, or chunk by chunk. `jobs` are the ids of its choices' jobs, `created` is Unix time."""

    chat: bool
    model: str
    created: int
    jobs: list[str]
    logprobs: bool = False
    include_usage: bool = False
    _offsets: dict[int, int] = field(default_factory=dict)

    def whole(self, endings: Sequence[Ending]) -> JsonObject:
        """Return the answer that is not streamed."""
        choices = [self._choice(index, each) for index, each in enumerate(endings)]
        return self._envelope("", choices) | {"usage": usage(endings), "aos": aos_member(endings)} | SUCCESS

    def opening(self) -> list[bytes]:
        """Return the events that come first: of a chat, whose turn it is now."""
        if not self.chat:
            return []
        role = {"role": "assistant", "content": ""}
        return [self._chunk(index, {"delta": role}) for index in range(len(self.jobs))]

    def piece(self, index: int, text: str, tokens: Sequence[TokenLogprob]) -> bytes:
        """Return the event of some more text of a choice."""
        return self._chunk(index, self._said(text), self._logprobs(index, text, tokens))

    def closing(self, index: int, end: Ending, endings: Sequence[Ending] | None) -> bytes:
        """Return the event that ends a choice. The last choice to end has `endings`, those of all choices."""
        last: JsonObject = {"finish_reason": end.finish_reason, "stop_reason": end.stop_reason}
        beside: JsonObject = {}
        if endings is not None:
            beside = {"aos": aos_member(endings)}
            beside |= {} if self.include_usage else {"usage": usage(endings)}
        return self._chunk(index, self._said("") | last, beside=beside)

    def trailer(self, endings: Sequence[Ending]) -> list[bytes]:
        """Return what comes after the last choice has ended."""
        if not self.include_usage:
            return [DONE]
        return [event(self._envelope(".chunk", []) | {"usage": usage(endings)}), DONE]

    def _said(self, text: str) -> JsonObject:
        return {"delta": {"content": text}} if self.chat else {"text": text}

    def _logprobs(self, index: int, text: str, tokens: Sequence[TokenLogprob]) -> JsonObject | None:
        if not self.logprobs:
            return None
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(text)
        return chat_logprobs(tokens) if self.chat else text_logprobs(tokens, offset)

    def _chunk(
        self,
        index: int,
        said: JsonObject,
        logprobs: JsonObject | None = None,
        beside: JsonObject | None = None,
    ) -> bytes:
        choice = {"index": index, "logprobs": logprobs, "finish_reason": None} | said
        chunk = self._envelope(".chunk", [choice])
        if self.include_usage:
            chunk["usage"] = None
        return event(chunk | (beside or {}))

    def _choice(self, index: int, end: Ending) -> JsonObject:
        if self.chat:
            message = {"role": "assistant", "content": end.text, "refusal": None}
            said: JsonObject = {"message": message, "logprobs": chat_logprobs(end.logprobs)}
        else:
            said = {"text": end.text, "logprobs": text_logprobs(end.logprobs, 0)}
        stop = {"finish_reason": end.finish_reason, "stop_reason": end.stop_reason}
        return {"index": index} | said | stop

    def _envelope(self, suffix: str, choices: list[JsonObject]) -> JsonObject:
        # OpenAI calls the chunks of a completion as it calls the whole.
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.jobs[0]}"
        return {
            "id": name,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def event(value: JsonObject) -> bytes:
    """Return one server-sent event.

    Its JSON is ASCII: U+0085 and U+2028 are line ends to clients that split text where Python does, though not to the standard.
    """
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def failure(error: ApiError) -> bytes:
    """Return the event with which a stream ends that failed; no [DONE] follows."""
    return event(gateway_body(error))


def comment(text: str) -> bytes:
    """Return a line that clients ignore: it keeps connections open, and people can read it."""
    return f": {text}\n\n".encode()
