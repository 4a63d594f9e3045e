"""From a request to token ids and sampling, with the renderer of training: training ids are serving ids."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sartor.errors import UserError
from sartor.generate.protocol import Sampling
from sartor.serve.answer import Question, Renderer
from sartor.serve.desk import Served
from sartor.serve.errors import bad_request
from sartor.serve.wire import ChatMessage, ChatRequest
from sartor.types import Json, Message, ToolCall

#: Sampled greedily unless the request says otherwise (OpenAI: 1), because the proof measured greedy answers.
TEMPERATURE = 0.0
DEFAULT_NEW_TOKENS = 1024


def ask(request: ChatRequest, model: Served) -> Question:
    """The question in a request. Renders, so it belongs on the engine's thread.

    Raises:
        ApiError: 400, if the template refuses the messages or they do not fit into the context.
    """
    prompt = _render(model.renderer, messages_of(request.messages), tools_of(request))
    room = model.turns.engine.context - len(prompt)
    if room < 1:
        raise bad_request(
            f"This model's context is {model.turns.engine.context} tokens, and your messages take {len(prompt)}. "
            "Shorten them; at least one token must be left for the answer.",
            param="messages",
            code="context_length_exceeded",
        )
    limit = DEFAULT_NEW_TOKENS if request.limit is None else request.limit
    sampling = _sampling(request, min(limit, room), model.renderer.stop_ids)
    return Question(prompt, sampling, model.adapter, tuple(request.stop or ()))


def messages_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Messages as training knows them."""
    return tuple(
        Message(
            role=message.role,
            content=message.text,
            reasoning=message.thoughts,
            name=message.name or "",
            tool_calls=tuple(
                ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id)
                for call in message.tool_calls or ()
            ),
            tool_call_id=message.tool_call_id or "",
        )
        for message in messages
    )


def tools_of(request: ChatRequest) -> tuple[Json, ...]:
    """The tools to show the model; none if the request forbids their use."""
    return () if request.tool_choice == "none" else tuple(request.tools or ())


def _render(renderer: Renderer, messages: tuple[Message, ...], tools: tuple[Json, ...]) -> tuple[int, ...]:
    try:
        return renderer.prompt(messages, tools)
    except UserError as error:
        raise bad_request(f"{error.message}. {error.hint}", param="messages", code="invalid_messages") from error


def _sampling(request: ChatRequest, max_new_tokens: int, stop_ids: frozenset[int]) -> Sampling:
    """Without a seed every request draws its own. `top_p` 0 leaves one token to choose from, that is, greedy."""
    temperature = TEMPERATURE if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    seed = secrets.randbits(63) if request.seed is None else request.seed % (1 << 63)
    if top_p == 0:
        temperature, top_p = 0.0, 1.0
    return Sampling(max_new_tokens, stop_ids, temperature=temperature, top_p=top_p, seed=seed)
