"""Converts a text or a question to a prompt, the tokens that a sample continues."""

from collections.abc import Sequence
from dataclasses import dataclass

from microgpt.config.schema import SampleConfig
from microgpt.data.conversations import USER, Turn, encode_prompt_turns
from microgpt.data.tokenizer import Tokenizer
from microgpt.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """The text that a sample continues."""

    text: str  # as printed before the sample
    tokens: list[int]  # token ids, BOS first


def sample_prompts(
    sample: SampleConfig, tokenizer: Tokenizer, block_size: int, questions: Sequence[str]
) -> list[Prompt]:
    """Return sample.prompt as a prompt. For a chat model, it is the user's turn; if it is empty, `questions` are used.

    Raises UserError for unknown characters, a prompt that is too long, or a chat model without any question.
    """
    if not tokenizer.special:
        return [Prompt(sample.prompt, encode_prompt(sample.prompt, tokenizer, block_size))]
    texts = [sample.prompt] if sample.prompt else questions[: max(1, sample.num_samples)]
    if not texts:
        raise UserError("sample.prompt= is not allowed: a chat model needs a question, such as sample.prompt=hello")
    return [
        Prompt(f"user: {text} assistant: ", encode_prompt_turns([Turn(USER, text)], tokenizer, block_size)[0])
        for text in texts
    ]


def encode_prompt(prompt: str, tokenizer: Tokenizer, block_size: int, name: str = "sample.prompt") -> list[int]:
    """Return BOS and the prompt's token ids. Raises UserError for unknown characters or a prompt that is too long.

    `name` is the name of the prompt in error messages.
    """
    tokens = [tokenizer.bos, *tokenizer.encode(prompt, name)]
    if len(tokens) > block_size:
        raise UserError(f"prompt token count {len(tokens)} exceeds max prompt tokens {block_size}")
    return tokens
