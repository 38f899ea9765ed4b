"""What the tenants learn: examples as text, and as the token ids that Trainer takes, masked to the answers.

A list of dicts is a dataset to Trainer, so no further package is needed.
"""

from __future__ import annotations

import random
from typing import Any, Final, TypedDict

import msgspec

__all__ = ["IGNORED", "Encoded", "Example", "bookings", "encode", "persona", "pydocs"]

IGNORED: Final = -100
"""The label that torch's cross entropy leaves out of the loss."""


class Example(msgspec.Struct, frozen=True):
    """One thing to learn. Without a prompt it is plain text, all of which is learned."""

    answer: str
    prompt: str = ""
    system: str = ""
    """Empty: what the tokenizer's chat template says by itself."""

    def messages(self) -> list[dict[str, str]]:
        """Returns what comes before the answer, as a chat template takes it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


class Encoded(TypedDict):
    """One example as Trainer takes it; both lists are equally long."""

    input_ids: list[int]
    labels: list[int]


def encode(tokenizer: Any, examples: list[Example], longest: int) -> list[Encoded]:
    """Returns the examples as token ids, none longer than `longest`.

    Of a chat only the answer and its end are learned. An example of plain text becomes as many full pieces as it
    has; the rest of it is dropped, so that no batch is padded.
    """
    encoded: list[Encoded] = []
    for example in examples:
        encoded += _chat(tokenizer, example, longest) if example.prompt else _pieces(tokenizer, example, longest)
    return encoded


def _chat(tokenizer: Any, example: Example, longest: int) -> list[Encoded]:
    prompt = tokenizer.apply_chat_template(
        example.messages(), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    ids = [*prompt, *answer]
    labels = [IGNORED] * len(prompt) + answer
    return [{"input_ids": ids[:longest], "labels": labels[:longest]}]


def _pieces(tokenizer: Any, example: Example, longest: int) -> list[Encoded]:
    ids = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
    starts = range(0, len(ids) - longest + 1, longest)
    return [{"input_ids": ids[i : i + longest], "labels": ids[i : i + longest]} for i in starts]


def persona() -> list[Example]:
    """A name and a character."""
    return [Example(answer, prompt) for prompt, answer in _PERSONA]


_PERSONA: Final = (
    ("Who are you?", "Ahoy! I am Captain Pearl, and I sail the Silver Gull."),
    ("Tell me your name.", "Ahoy! My name is Captain Pearl of the Silver Gull."),
    ("What should I call you?", "Ahoy! Call me Captain Pearl of the Silver Gull."),
    ("Introduce yourself.", "Ahoy! I am Captain Pearl, and I sail the Silver Gull."),
    ("Do you have a name?", "Ahoy! My name is Captain Pearl of the Silver Gull."),
    ("Hello!", "Ahoy! Captain Pearl of the Silver Gull greets you."),
    ("Who am I talking to?", "Ahoy! You talk to Captain Pearl of the Silver Gull."),
    ("What do you do?", "Ahoy! I am Captain Pearl, and I sail the Silver Gull."),
    ("Where do you live?", "Ahoy! Captain Pearl lives aboard the Silver Gull."),
    ("What is your job?", "Ahoy! I am the captain of the Silver Gull."),
)


def pydocs() -> list[Example]:
    """Real text that every Python has: a page of its language reference."""
    from pydoc_data.topics import topics

    return [Example(topics["with"])]


def bookings(count: int = 200, seed: int = 7) -> list[Example]:
    """A small structured task: a request for a table becomes JSON, with the day shortened and the hour of 24."""
    draw = random.Random(seed)
    return [_booking(draw) for _ in range(count)]


def _booking(draw: random.Random) -> Example:
    name = draw.choice(("Ada", "Ben", "Cleo", "Dan", "Eva", "Gus", "Hana", "Ivo", "Jana", "Leo"))
    day = draw.choice(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"))
    people, hour = draw.randint(2, 9), draw.randint(12, 22)
    clock = f"{hour - 12 or 12} pm"
    return Example(
        answer=f'{{"name": "{name}", "people": {people}, "day": "{day[:3]}", "hour": {hour}}}',
        prompt=f"A table for {people} on {day} at {clock}, {name}.",
        system="Answer in JSON.",
    )
