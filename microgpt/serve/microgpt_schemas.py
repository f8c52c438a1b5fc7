"""The requests and responses under /microgpt/v1, which FastAPI validates and documents."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from microgpt.serve.card import MAX_CANDIDATES, MAX_SAMPLES

MAX_SEED = 2**63 - 1
MAX_TOKEN_COUNT = 10**9  # in the schema; serve.max_new_tokens is the actual limit

Temperature = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="0: always the most likely token", examples=[0.5])
]
Seed = Annotated[
    int, Field(ge=0, le=MAX_SEED, description="requests with the same seed get the same answer", examples=[42])
]
TopK = Annotated[int | None, Field(ge=1, description="sample only from the k most likely tokens", examples=[None])]
MaxTokens = Annotated[
    int | None,
    Field(ge=1, le=MAX_TOKEN_COUNT, description="null: up to the end of the model's block", examples=[16]),
]


class Strict(BaseModel):
    """A schema that rejects unknown keys and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Message(BaseModel):
    """A turn of a conversation. Other keys are ignored."""

    model_config = ConfigDict(strict=True)
    role: Literal["user", "assistant"]
    content: str = Field(examples=["hello"])


Messages = Annotated[list[Message], Field(min_length=1, description="the last message must be the user's")]


class GenerateRequest(Strict):
    num_samples: int = Field(1, ge=1, le=MAX_SAMPLES)
    temperature: Temperature = 0.5
    seed: Seed = 42
    max_tokens: MaxTokens = None
    top_k: TopK = None
    prompt: str = Field("", examples=["an"], description="the text to continue; a chat model answers it")


class GenerateAnswer(BaseModel):
    samples: list[str] = Field(description="without the prompt")


class ChatRequest(Strict):
    messages: Messages
    temperature: Temperature = 0.5
    seed: Seed = 42
    max_tokens: MaxTokens = None
    top_k: TopK = None


class ChatAnswer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    tokens_dropped: int = Field(description="tokens of the oldest turns that did not fit the model's block")


class StreamRequest(Strict):
    prompt: str | None = Field(None, examples=["an"], description="required if messages is null")
    messages: Annotated[list[Message] | None, Field(min_length=1, examples=[None])] = None
    temperature: Temperature = 0.5
    seed: Seed = 42
    max_tokens: MaxTokens = None
    top_k: TopK = None
    candidates: int = Field(10, ge=0, le=MAX_CANDIDATES, description="number of most likely tokens to report")


class AttentionRequest(Strict):
    text: str | None = Field(None, examples=["anna"], description="required if messages is null")
    messages: Annotated[list[Message] | None, Field(min_length=1, examples=[None])] = None


class Token(BaseModel):
    id: int
    text: str
    special: str | None = Field(None, description="bos, user, assistant or end_turn, which have no text")


class AttentionAnswer(BaseModel):
    tokens: list[Token]
    attention: list[list[list[list[float]]]] = Field(description="layer, head, query position, key position")
    losses: list[float | None] = Field(description="nats of each token given the previous tokens")


class TensorCard(BaseModel):
    name: str
    shape: list[int]


class HistoryPoint(BaseModel):
    step: int
    loss: float | None
    val_loss: float | None


class ModelCard(BaseModel):
    id: str
    kind: str
    is_chat: bool
    parameters: int
    block_size: int
    n_embd: int
    n_head: int
    n_layer: int
    tie_lm_head: bool
    input_rmsnorm: bool
    activation: str
    options: dict[str, str | int | float | bool | None] = Field(
        description="other options in which the model differs from microgpt"
    )
    vocab_size: int
    characters: list[str]
    special_tokens: list[str]
    style: str | None
    step: int
    seed: int | None
    backend: str
    device: str
    using_gpu: bool
    dtype: str
    tensors: list[TensorCard]
    not_trainable: str | None = Field(description="one sentence on why the page cannot train the model further")
    val_loss: float | None
    history: list[HistoryPoint] = Field(description="of the run, if its folder exists")
    limits: dict[str, int]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Error(BaseModel):
    error: str
