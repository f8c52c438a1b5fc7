"""Estimates how long the jobs of a sweep take, from the measured speed of the first job's model on this machine."""

import time
from collections.abc import Sequence

import numpy as np

from microgpt.engines import make_engine
from microgpt.engines.base import EngineState, Workload
from microgpt.sweeps.groups import Job, most_together, shape_of
from microgpt.training.from_config import model_spec, optimizer_spec
from microgpt.training.run_inputs import InputReader

SECONDS = 0.1  # duration of the measurement
RATE = 1e-4  # learning rate; constant, because only time is measured
FORWARD = 1 / 3  # time of an evaluated example relative to a trained example
PER_JOB = 0.012  # seconds for a job's folder, record, weights and row in the tables, measured on one core


def about(jobs: Sequence[Job], reader: InputReader) -> float:
    """Return the estimated seconds for the jobs: training, two evaluations each, and writing files."""
    per_parameter = seconds_per_example(jobs, reader)
    total = 0.0
    for job in jobs:
        corpus, train = reader.corpus(job.config), job.config.train
        evaluated = min(train.eval_documents or corpus.val.documents, corpus.val.documents)
        examples = train.steps * train.batch_size + 2 * FORWARD * evaluated
        parameters = model_spec(job.config, corpus.tokenizer.vocab_size).parameter_count()
        total += examples * parameters * per_parameter + PER_JOB
    return total


def seconds_per_example(jobs: Sequence[Job], reader: InputReader) -> float:
    """Train replicas of the first job's model, as the sweep does, and return the seconds per example and parameter."""
    config = jobs[0].config
    inputs = reader.inputs(config)
    alike = sum(shape_of(job.config) == shape_of(config) for job in jobs)
    replicas = min(alike, most_together(config, inputs.spec, on_gpu=False, most=None))
    workload = Workload(inputs.corpus.examples, [inputs.initial.order] * replicas)
    state = EngineState.stack([inputs.initial.engine_state] * replicas)
    engine = make_engine(inputs.options, inputs.spec, optimizer_spec(config.optim), workload, state)
    engine.advance(0, np.full((1, replicas), RATE))  # compiles
    steps, begin = 1, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < SECONDS:
        engine.advance(steps, np.full((steps, replicas), RATE))
        steps *= 2
    return seconds / ((steps - 1) * replicas * config.train.batch_size * inputs.spec.parameter_count())


def in_words(seconds: float) -> str:
    if seconds < 1.5:
        return "a second"
    return f"{round(seconds)} seconds" if seconds < 90 else f"{round(seconds / 60)} minutes"
