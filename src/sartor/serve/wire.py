"""What the two routes that answer accept, field by field, each with its bounds.

Three kinds of field: those that we implement; those that change nothing about the answer, which are accepted and
ignored; and those that would change it and that we do not implement, which are refused unless they ask for nothing.
A field that OpenAI does not know is refused too. Source: OpenAI's specification 2.3.0.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema, from_json

from sartor.serve.errors import from_validation
from sartor.types import Json, Role

MAX_MESSAGES = 1024  # templates are rendered once per turn, so the work grows with the square
MAX_PROMPTS = 128  # each has a place of its own among the requests under way
MAX_TOOLS = 128
MAX_NEW_TOKENS = 1 << 20
MAX_STOPS = 4
SEED_LIMIT = 1 << 63


class Wire(BaseModel):
    """A part of a request: no coercion, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Body = TypeVar("Body", bound=Wire)


def only(*accepted: Any) -> AfterValidator:
    """Refuse every value but those that ask for nothing we cannot do."""

    def check(value: Any) -> Any:
        if any(value == choice and isinstance(value, bool) is isinstance(choice, bool) for choice in (None, *accepted)):
            return value
        choices = "".join(f", or send {json.dumps(choice)}" for choice in accepted)
        text = "{seen} is not supported by this server; leave it out{choices}"
        raise PydanticCustomError("unsupported_value", text, {"seen": json.dumps(value)[:80], "choices": choices})

    return AfterValidator(check)


def _as_parts(value: Any) -> Any:
    """A plain string is one text part."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    """One stop string is a list of one."""
    return [value] if isinstance(value, str) else value


def _parsed(value: Any) -> Any:
    """The arguments of a call come as a JSON string."""
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "Input should be a string that holds a JSON object")
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError as error:
        raise PydanticCustomError("invalid_arguments", "not valid JSON: {error}", {"error": str(error)}) from error


class TextPart(Wire):
    """A piece of a message's content. Text is all that this server reads."""

    type: Literal["text"]
    text: str


class CalledFunction(Wire):
    """The function that an assistant called, and with what."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: Annotated[Json, BeforeValidator(_parsed)]


class Call(Wire):
    """One call in an assistant's earlier turn."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction


class FunctionDefinition(Wire):
    """What a function is called, does and takes."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class FunctionTool(Wire):
    """A tool the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


def _as_sent(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
    """Check a tool, but keep it as it came: the order of its keys decides the prompt's tokens."""
    check(value)
    return value


Tool = Annotated[
    Json,
    GetPydanticSchema(lambda _, handler: core_schema.no_info_wrap_validator_function(_as_sent, handler(FunctionTool))),
]


class ChatMessage(Wire):
    """One turn, of any role."""

    role: Role
    content: Annotated[list[TextPart] | None, BeforeValidator(_as_parts)] = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[Call], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the same, as vLLM names it
    annotations: Any = None  # a client may send an answer back as it got it
    refusal: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise _misfit(".content", "a message needs `content`; an assistant's may have `tool_calls` instead")
        if self.role != "assistant" and (self.tool_calls or self.thoughts):
            place = ".tool_calls" if self.tool_calls else ".reasoning_content"
            raise _misfit(place, "only an assistant's message has tool calls and reasoning")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise _misfit(".tool_call_id", "a tool's message has a `tool_call_id`, and no other has")
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        return "".join(part.text for part in self.content or ())

    @property
    def thoughts(self) -> str:
        """The reasoning, under either of its names."""
        return self.reasoning_content or self.reasoning or ""


def _misfit(below: str, text: str) -> PydanticCustomError:
    return PydanticCustomError("misfit", "{text}", {"text": text, "below": below})


class StreamOptions(Wire):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against traffic analysis; leaving it out changes no text


Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=MAX_STOPS)]


class Request(Wire):
    """What both bodies have in common."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] | None = None
    stop: Annotated[Stops | None, BeforeValidator(_as_list)] = None
    user: Any = None  # it describes the caller, and changes nothing

    # They would change the answer and are not implemented: refused, unless they ask for nothing.
    frequency_penalty: Annotated[Any, only(0)] = None
    logit_bias: Annotated[Any, only({})] = None
    n: Annotated[Any, only(1)] = None
    presence_penalty: Annotated[Any, only(0)] = None

    @model_validator(mode="after")
    def _streams_with_its_options(self) -> Request:
        if self.stream_options is not None and not self.stream:
            raise _misfit("stream_options", "only allowed with `stream`: true")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens the caller wants."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Request):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[Any, only("auto", "none")] = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None

    # Accepted and without effect on the answer: they describe the caller, or hint at effort and speed. `store: true`
    # lets the chat be kept, with its `metadata`, where the server keeps a log (`serve/chat_log.py`).
    metadata: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    verbosity: Any = None

    # Refused as those above are.
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only("auto", "none")] = None
    functions: Annotated[Any, only()] = None
    logprobs: Annotated[Any, only(False)] = None
    modalities: Annotated[Any, only(["text"])] = None
    moderation: Annotated[Any, only()] = None
    parallel_tool_calls: Annotated[Any, only(True)] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    top_logprobs: Annotated[Any, only(0)] = None
    web_search_options: Annotated[Any, only()] = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _misfit("max_tokens", "send `max_completion_tokens` or `max_tokens`, not both")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens the caller wants, under either of its names."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class TextRequest(Request):
    """The body of `POST /v1/completions`, which OpenAI calls legacy: running text, and no messages."""

    prompt: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1, max_length=MAX_PROMPTS)]

    best_of: Annotated[Any, only(1)] = None
    echo: Annotated[Any, only(False)] = None
    logprobs: Annotated[Any, only()] = None
    suffix: Annotated[Any, only()] = None

    @model_validator(mode="after")
    def _streams_one(self) -> TextRequest:
        if self.stream and len(self.prompt) > 1:
            raise _misfit("stream", "one prompt at a time can be streamed by this server")
        return self


def parse(body: bytes) -> ChatRequest:
    """The chat request in a body. Raises as `read` does."""
    return read(ChatRequest, body)


def read(kind: type[Body], body: bytes) -> Body:
    """The request in a body.

    Raises:
        ApiError: 400, naming the parameter.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from error
