"""The requests and responses of the OpenAI API that this server supports. Unsupported keys are errors.

Keys have the meaning given in the OpenAI API reference; some are accepted only with their neutral value.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from microgpt.serve.errors import RequestError
from microgpt.serve.microgpt_schemas import MAX_SAMPLES, MAX_SEED, MAX_TOKEN_COUNT, Strict, TopK

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


def is_text_part(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "text" and isinstance(item.get("text"), str)


def string_or(
    items: str,
    maximum: int | None = None,
    minimum: int = 0,
    is_item: Callable[[Any], bool] = lambda item: isinstance(item, str),
) -> BeforeValidator:
    """Check a field that is a string or a list, with a one-sentence error: a union type would report every member."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and all(map(is_item, value)):
            if maximum is not None and len(value) > maximum:
                raise ValueError(f"it must have at most {maximum} {items}")
            if len(value) < minimum:
                raise ValueError(f"it must have {minimum} or more {items}")
        elif not isinstance(value, str):
            raise ValueError(f"it must be a string or an array of {items}")
        return value

    return BeforeValidator(check)


def or_null(validator: BeforeValidator) -> BeforeValidator:
    check: Any = validator.func
    return BeforeValidator(lambda value: None if value is None else check(value))


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
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="requests with the same seed get the same answer")
    stop: Annotated[str | list[str] | None, or_null(string_or("stop sequences", MAX_STOP_SEQUENCES))] = Field(
        None, description="sequences before which the text ends"
    )
    top_k: TopK = None  # an extension
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
        """Raise RequestError for an unsupported key with a value that would change the answer."""
        for key, value in (self.model_extra or {}).items():
            if key in IGNORED_KEYS or (key in NEUTRAL and value in NEUTRAL[key]):
                continue
            if key in NEUTRAL:
                raise RequestError(key, f"{key} is not supported by this server: omit it")
            name = key[:60].encode("ascii", "backslashreplace").decode()
            raise RequestError(name, f"{name} is not a key of this request")


class CompletionRequest(CompletionOptions):
    prompt: Annotated[str | list[str], string_or("prompts", MAX_PROMPTS, minimum=1)] = Field(
        "", examples=["an"], description="the text to continue; a chat model answers it"
    )
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKEN_COUNT, description="0: generate nothing, for use with echo")
    echo: bool | None = Field(None, description="repeat the prompt before the text")

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """Other keys, such as `name`, are ignored."""

    model_config = ConfigDict(strict=True)
    role: Literal["user", "assistant"]
    content: Annotated[str | list[TextPart], string_or("text parts", is_item=is_text_part)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatCompletionRequest(CompletionOptions):
    messages: list[ChatMessage] = Field(min_length=1, description="the last message must be the user's")
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
