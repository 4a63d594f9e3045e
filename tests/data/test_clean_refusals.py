"""Answers that refuse."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from .rows import outcomes, reasons, talk, text


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I cannot feel.",
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, but I cannot provide medical advice.",
        "I cannot fulfill this request.",
        "I'm just a language model and can't browse the web.",
        "Unfortunately, I am unable to help you with this.",
        "That would go against my programming and violates OpenAI's use case policy.",
        "Als KI-Sprachmodell habe ich keine Gefühle.",
        "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
        "En tant que modèle de langage, je ne peux pas.",
        "Désolé, mais je ne peux pas vous aider.",
        "Como modelo de lenguaje, no tengo opiniones.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Como um modelo de linguagem, não posso.",
        "Als taalmodel heb ik geen mening.",
        "Jako model językowy nie mam uczuć.",
        "К сожалению, я не могу помочь с этим.",
        "作为一个人工智能语言模型，我没有感情。",
        "申し訳ありませんが、お手伝いできません。",
    ],
)
def test_they_go(answer: str) -> None:
    assert reasons("refusals", talk(answer)) == ["refusal"]


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot find my keys anywhere.",
        "Sorry, the shop is closed on Sundays.",
        "I'm sorry to hear that. Try restarting the router.",
        "Unfortunately, your order was delayed; it arrives on Monday.",
        "An AI model is trained on data. As an example, take a classifier.",
        "He said: “I can't help it.”",
        "Leider ist das Produkt ausverkauft.",
        "Ich kann schwimmen, aber nicht tauchen.",
        "Es tut mir leid, dass Ihr Paket nicht angekommen ist. Wir senden es neu.",
        "Unfortunately, I cannot see any damage in the picture, so the claim is rejected.",
    ],
)
def test_ordinary_answers_stay(answer: str) -> None:
    assert reasons("refusals", talk(answer)) == []


def test_a_story_may_quote_one() -> None:
    assert (
        reasons("refusals", talk("The robot walked on. " * 20 + "“As an AI language model, I cannot feel,” it said."))
        == []
    )
    assert reasons("refusals", text("As an AI language model, I cannot feel.")) == []


def test_only_told() -> None:
    (outcome,) = outcomes("refusals", [talk("I cannot comply.")], action="report")
    assert outcome.example is not None
    assert [(entry.action, entry.detail) for entry in outcome.entries] == [("flagged", "a pattern: en")]


def test_ones_own_patterns() -> None:
    assert reasons("refusals", talk("No can do."), more=["^no can do"]) == ["refusal"]
    with pytest.raises(ValidationError, match="no regular expression"):
        outcomes("refusals", [], more=["("])
