"""The requests and responses of the OpenAI API that this server supports. Unsupported keys are errors.

Keys and their meaning are those of the API's reference; some are accepted with their neutral value only.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from microgpt.serve.errors import UnsupportedError
from microgpt.serve.native_schemas import MAX_SAMPLES, MAX_SEED, MAX_TOKEN_COUNT, Strict

MAX_STOP_SEQUENCES = 4
MAX_PROMPTS = 16
# Keys about the user, storage and billing, which have no effect here.
IGNORED_KEYS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
# Unsupported keys, with the neutral values that are accepted.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "top_p": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "parallel_tool_calls": (None, True, False),
    "reasoning_effort": (None, "none"),
    "verbosity": (None,),
}

Stop = Annotated[list[str], Field(max_length=MAX_STOP_SEQUENCES)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class CompletionOptions(Strict):
    """The keys of both kinds of completion."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra={"additionalProperties": False})
    model: str = Field(description="an id from /v1/models")
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKEN_COUNT)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False, description="null: 1")
    n: int | None = Field(None, ge=1, le=MAX_SAMPLES)
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="equal seeds give equal answers")
    stop: str | Stop | None = Field(None, description="the text ends before the first of these")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check_supported(self) -> None:
        """Raise UnsupportedError for an unsupported key with a value that would change the answer."""
        for key, value in (self.model_extra or {}).items():
            if key in IGNORED_KEYS or (key in NEUTRAL and value in NEUTRAL[key]):
                continue
            if key in NEUTRAL:
                raise UnsupportedError(f"{key} is not supported by this server: leave it out")
            name = key[:60].encode("ascii", "backslashreplace").decode()
            raise UnsupportedError(f"{name} is not a key of this request")


class CompletionRequest(CompletionOptions):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)] = Field(
        "", examples=["an"], description="what the text goes on from; a chat model answers it"
    )
    echo: bool | None = Field(None, description="the prompt stands before the text")

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """Other keys, as `name`, are passed over."""

    model_config = ConfigDict(strict=True)
    role: Literal["user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatCompletionRequest(CompletionOptions):
    messages: list[ChatMessage] = Field(min_length=1, description="the last one is the user's")
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKEN_COUNT)


class OpenAIErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    error: OpenAIErrorBody


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None


class CompletionAnswer(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"] | None
    logprobs: None


class ChatCompletionAnswer(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
