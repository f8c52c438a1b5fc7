"""From conversations to a corpus: what a chat model is trained on and validated with."""

from collections.abc import Sequence
from itertools import accumulate

from microgpt.data.conversations import (
    USER,
    Conversation,
    encode_conversation,
    is_long_conversation,
    parse_conversations,
)
from microgpt.data.corpus import Corpus, Part, refuse_too_small, split
from microgpt.data.sources import Source
from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer

NOTHING = Part(0, [], [])


def build_chat_corpus(source: Source, *, val_fraction: float, split_seed: int, block_size: int, loss_on: str) -> Corpus:
    """Read, split by distinct conversation, encode. Raises UserError for a file that is none, and for too little."""
    found = parse_conversations(source.text, source.origin)
    tokenizer = Tokenizer.of((turn.content for each in found.conversations for turn in each), CHAT_SPECIAL)
    train, val = split(found.conversations, val_fraction, split_seed)
    refuse_too_small(source.origin, found.conversations, train, val, val_fraction, "conversation")

    def part(conversations: Sequence[Conversation]) -> Part:
        encoded = [encode_conversation(each, tokenizer, block_size, loss_on) for each in conversations]
        kept = [[] if example is None else [example] for example in encoded]
        return Part(len(conversations), [example for one in kept for example in one], list(accumulate(map(len, kept))))

    truncated = sum(is_long_conversation(each, block_size) for each in found.conversations)
    return Corpus(
        source=source,
        tokenizer=tokenizer,
        documents=len(found.conversations),
        train=part(train),
        val=part(val),
        style_train=NOTHING,
        style_val=NOTHING,
        long_documents=truncated,
        conversations={"skipped": found.skipped, "trimmed": found.trimmed, "truncated": truncated},
        questions=tuple(dict.fromkeys(each[0].content for each in val or train if each[0].role == USER)),
    )
