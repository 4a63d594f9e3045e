"""From a request to token ids and sampling, with the renderer of training: training ids are serving ids."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sartor.errors import UserError
from sartor.generate.protocol import Sampling
from sartor.serve.answer import Question, Renderer
from sartor.serve.desk import Served
from sartor.serve.errors import refused
from sartor.serve.wire import ChatMessage, ChatRequest, Request
from sartor.types import Json, Message, ToolCall

#: Sampled greedily unless the request says otherwise (OpenAI: 1), because the proof measured greedy answers.
TEMPERATURE = 0.0
DEFAULT_NEW_TOKENS = 1024


def ask(request: ChatRequest, model: Served) -> Question:
    """The question in a request. Renders, so it belongs on the engine's thread, which says later if it has room.

    Raises:
        ApiError: 400, if the template refuses the messages.
    """
    prompt = _render(model.renderer, messages_of(request.messages), tools_of(request))
    return Question(prompt, _sampling(request, model.renderer.stop_ids), model.adapter, tuple(request.stop or ()))


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
        raise refused(error, param="messages", code="invalid_messages") from error


def go_on(request: Request, text: str, model: Served) -> Question:
    """The question of what comes after running text. On the engine's thread, as `ask`.

    Raises:
        ApiError: 400, if the base goes on with no such text.
    """
    try:
        prompt = model.renderer.opening(text)
    except UserError as error:
        raise refused(error, param="prompt", code="invalid_prompt") from error
    sampling = _sampling(request, model.renderer.stop_ids)
    return Question(prompt, sampling, model.adapter, tuple(request.stop or ()), goes_on=True)


def _sampling(request: Request, stop_ids: frozenset[int]) -> Sampling:
    """Without a seed every request draws its own. `top_p` 0 leaves one token to choose from, that is, greedy."""
    limit = DEFAULT_NEW_TOKENS if request.limit is None else request.limit
    temperature = TEMPERATURE if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    seed = secrets.randbits(63) if request.seed is None else request.seed % (1 << 63)
    if top_p == 0:
        temperature, top_p = 0.0, 1.0
    return Sampling(limit, stop_ids, temperature=temperature, top_p=top_p, seed=seed)
