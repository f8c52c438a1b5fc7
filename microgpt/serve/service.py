"""The objects that the routes share: the model, the generation queue, the limits and the metrics."""

from collections.abc import AsyncIterator, Callable

from starlette.requests import Request

from microgpt.config.task_keys import ServeConfig
from microgpt.inference.loading import TrainedModel
from microgpt.serve.generation import GeneratedText, Generation, GenerationRequest
from microgpt.serve.generation_queue import GenerationQueue
from microgpt.serve.metrics import Metrics
from microgpt.serve.middleware import RequestLimits
from microgpt.serve.model import ServedModel
from microgpt.serve.streaming import EventStream, collect_texts


class Service:
    def __init__(self, trained: TrainedModel, config: ServeConfig, api_key: str | None):
        self.config = config
        self.model = ServedModel(trained, config.max_new_tokens)
        self.limits = RequestLimits(api_key, config.max_body_bytes)
        self.metrics = Metrics()
        self.queue = GenerationQueue(
            trained.engine,
            trained.tokenizer,
            trained.block_size,
            max_active=config.max_active,
            max_queue=config.max_queue,
            count=self.metrics.count_tokens,
        )

    async def generate(self, request: Request, wanted: GenerationRequest) -> list[GeneratedText]:
        """Return all texts of a request. Raises QueueFullError and the errors of collect_texts."""
        return await collect_texts(request.receive, self.queue, self.queue.submit(wanted, self.config.timeout))

    def stream(
        self,
        wanted: GenerationRequest,
        events: Callable[[Generation], AsyncIterator[str]],
        error_event: Callable[[Exception], str],
    ) -> EventStream:
        """Return the server-sent events that `events` creates from a generation. Raises QueueFullError, ClosedError."""
        generation = self.queue.submit(wanted, self.config.timeout)
        return EventStream(self.queue, generation, events(generation), error_event)


def service_of(request: Request) -> Service:
    return request.app.state.service
