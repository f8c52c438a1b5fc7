"""What all routes share: the model, the queue, the gate, the figures; and how texts come out of what was drawn."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request

from microgpt.config.schema import ServeConfig
from microgpt.inference.loading import Trained
from microgpt.serve.generation_queue import Asked, Batcher, Drawn, Ticket
from microgpt.serve.metrics import Metrics
from microgpt.serve.middleware import Gate
from microgpt.serve.model import ServedModel
from microgpt.serve.streaming import Events, drawn_whole


@dataclass(frozen=True)
class Text:
    """What was drawn for one prompt."""

    text: str
    stop_reason: str
    tokens: int  # without the one that ended it


class Service:
    def __init__(self, trained: Trained, config: ServeConfig, api_key: str | None):
        self.config = config
        self.model = ServedModel(trained, config.max_new_tokens)
        self.gate = Gate(api_key, config.max_body_bytes)
        self.metrics = Metrics()
        self.batcher = Batcher(
            trained.engine,
            trained.tokenizer,
            trained.block_size,
            max_active=config.max_active,
            max_queue=config.max_queue,
            count=self.metrics.count_tokens,
        )

    async def whole(self, request: Request, asked: Asked) -> list[Text]:
        """All texts of a request, drawn to their ends. Raises what drawn_whole does."""
        found: list[list[Drawn]] = [[] for _ in asked.prompts]
        for drawn in await drawn_whole(request, self.batcher, asked, self.config.timeout):
            found[drawn.number].append(drawn)
        return [text_of(drawn) for drawn in found]

    def stream(
        self, asked: Asked, events: Callable[[Ticket], AsyncIterator[str]], told: Callable[[Exception], str]
    ) -> Events:
        """Server-sent events made of a request's tokens. Raises QueueFullError and ClosedError at once."""
        ticket = self.batcher.submit(asked)
        return Events(self.batcher, ticket, events(ticket), self.config.timeout, told)

    def tokens(self, ticket: Ticket) -> AsyncIterator[Drawn]:
        return ticket.tokens(self.config.timeout)


def text_of(drawn: Sequence[Drawn]) -> Text:
    reason = drawn[-1].stop_reason
    assert reason is not None
    return Text("".join(each.text for each in drawn), reason, len(drawn) - (reason == "end"))


def service_of(request: Request) -> Service:
    return request.app.state.service
