"""Compare the PyTorch engine with nanoGPT's model.py: the same model, weights, data and optimizer.

nanoGPT is imported from a local checkout. Its model is GPT-2 without biases, and so is ours here; with equal weights,
both must have the same loss. Products in float32 are exact in both (no TF32).
"""

import importlib.util
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_check.measuring import KERNELS, Check, Row, Training, engine_of, random_state, seconds_a_step
from microgpt.benchmarks.reference import names_corpus
from microgpt.data.corpus import Corpus
from microgpt.engines.base import Arrays, Engine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import MicrogptError, UserError
from microgpt.model.spec import ModelSpec

VOCAB_SIZE = 65  # characters of Shakespeare, so that 6/6/384 has the usual 10.65 M parameters
RATE, CLIP, DECAY, BETAS = 1e-3, 1.0, 0.1, (0.9, 0.99)
LARGEST_DIFFERENCE = 1e-3  # between the first losses, in float32
EAGER, COMPILED = ("eager", "cuda_graph"), ("compiled", "compiled cuda_graph")
AGAINST = dict.fromkeys(EAGER, EAGER[0]) | dict.fromkeys(COMPILED, COMPILED[0])  # our kernel -> nanoGPT's kernel
# The most important settings come first, because compiling may exceed the time limit.
ORDER = (("bfloat16", COMPILED), ("bfloat16", EAGER), ("float32", EAGER), ("float32", COMPILED))
SAMPLED = {True: 16, False: 200}  # tokens per text, by --quick


@dataclass(frozen=True)
class Shape:
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch_size: int

    def __str__(self) -> str:
        return f"{self.n_layer}/{self.n_head}/{self.n_embd}, block {self.block_size}, batch {self.batch_size}"

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            "gpt", VOCAB_SIZE, self.n_embd, self.n_head, self.n_layer, self.block_size, tie_lm_head=True,
            input_rmsnorm=False, activation="gelu", init_std=0.02, norm="layernorm", norm_gain=True, final_norm=True,
            residual_init="scaled",
        )  # fmt: skip


SHAPES = {False: (Shape(6, 6, 384, 256, 64), Shape(4, 4, 128, 128, 32)), True: (Shape(1, 2, 16, 16, 2),)}  # by --quick


@cache
def corpus_of(block_size: int) -> Corpus:
    """Return one running text, so that every example fills the block."""
    return names_corpus(text_format="stream", block_size=block_size)


def ours(check: Check, shape: Shape, dtype: str, kernel: str) -> Engine:
    options = EngineOptions("torch", device=check.device, dtype=dtype, **KERNELS[kernel])
    optimizer = OptimizerSpec("adamw", beta1=BETAS[0], beta2=BETAS[1], eps=1e-8, weight_decay=DECAY, grad_clip=CLIP)
    return engine_of(options, shape.spec, optimizer, corpus_of(shape.block_size), shape.batch_size)


class NanoGPT:
    """nanoGPT's model and optimizer, trained as by its train.py, without evaluation and printing."""

    def __init__(self, check: Check, shape: Shape, dtype: str, compiled: bool):
        self.check, self.shape = check, shape
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        if dtype == "bfloat16":
            self.autocast = partial(torch.autocast, check.device, torch.bfloat16)
        code = load_model_file(check.nanogpt_dir or "")
        sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
        config = code.GPTConfig(vocab_size=VOCAB_SIZE, block_size=shape.block_size, dropout=0.0, bias=False, **sizes)
        self.model = code.GPT(config)
        self.model.load_state_dict(nanogpt_weights(shape, random_state(shape.spec, [0]).parameters), strict=False)
        self.model.to(check.device)
        self.optimizer = self.model.configure_optimizers(DECAY, RATE, BETAS, check.device)
        self.step_model: Any = torch.compile(self.model) if compiled else self.model
        tokens = [token for example in corpus_of(shape.block_size).examples for token in example]
        self.tokens = torch.tensor(tokens)
        self.loss = torch.tensor(torch.nan)

    def batch(self) -> tuple[Tensor, Tensor]:
        size, count = self.shape.block_size, self.shape.batch_size
        places = torch.randint(len(self.tokens) - size - 1, (count,))
        windows = torch.stack([self.tokens[place : place + size + 1] for place in places.tolist()])
        if self.check.device == "cuda":
            windows = windows.pin_memory().to("cuda", non_blocking=True)
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def __call__(self, steps: int) -> None:
        batch = self.batch()
        for _ in range(steps):
            with self.autocast():
                _, self.loss = self.step_model(*batch)
            batch = self.batch()  # prepared while the GPU computes
            self.loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if not np.isfinite(self.loss.item()):
            raise MicrogptError("a loss became non-finite")


@cache
def load_model_file(folder: str) -> Any:
    file = Path(folder) / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"--nanogpt-dir={folder} is not a checkout of nanoGPT: it has no model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nanogpt_weights(shape: Shape, arrays: Arrays) -> dict[str, Tensor]:
    """Return our weights (R = 1), keyed by nanoGPT's names."""
    ours = {name: torch.from_numpy(array[0]) for name, array in arrays.items()}
    found = {
        "transformer.wte.weight": ours["wte"],
        "lm_head.weight": ours["wte"],
        "transformer.wpe.weight": ours["wpe"],
    }
    for layer in range(shape.n_layer):
        mine, theirs = f"layer{layer}", f"transformer.h.{layer}"
        found |= {
            f"{theirs}.ln_1.weight": ours[f"{mine}.attn_norm_gain"][0],
            f"{theirs}.attn.c_attn.weight": torch.cat([ours[f"{mine}.attn_w{part}"] for part in "qkv"]),
            f"{theirs}.attn.c_proj.weight": ours[f"{mine}.attn_wo"],
            f"{theirs}.ln_2.weight": ours[f"{mine}.mlp_norm_gain"][0],
            f"{theirs}.mlp.c_fc.weight": ours[f"{mine}.mlp_fc1"],
            f"{theirs}.mlp.c_proj.weight": ours[f"{mine}.mlp_fc2"],
        }
    return found | {"transformer.ln_f.weight": ours["final_norm_gain"][0]}


def loss_difference(check: Check, shape: Shape) -> float:
    """Return the difference between both programs' losses on the same examples, with equal weights, in float32."""
    examples = corpus_of(shape.block_size).examples[: shape.batch_size]
    expected = float(ours(check, shape, "float32", "eager").evaluate(examples)[0])
    theirs = NanoGPT(check, shape, "float32", compiled=False)
    tokens = torch.tensor([list(example) for example in examples], device=check.device)
    with torch.no_grad():
        _, loss = theirs.model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return abs(float(loss) - expected)


def measure(check: Check) -> None:
    """Measure both programs, the larger model first."""

    def one(shape: Shape, program: str, dtype: str, kernel: str) -> Row:
        if program == "nanoGPT":
            training, engine = NanoGPT(check, shape, dtype, kernel == "compiled"), None
        else:
            engine = ours(check, shape, dtype, kernel)
            training = Training(engine, 1, RATE)
        start = time.perf_counter()
        training(1)
        prepared = time.perf_counter() - start
        seconds = seconds_a_step(training, check.seconds)
        tokens = shape.batch_size * shape.block_size
        figures = {"ms a step": 1e3 * seconds, "tokens a second": tokens / seconds, "prepared in s": prepared}
        theirs = nanogpt_row(check, {"model": str(shape), "dtype": dtype, "kernel": AGAINST[kernel]})
        if program == "microgpt" and "tokens a second" in theirs:
            figures["times nanoGPT"] = figures["tokens a second"] / theirs["tokens a second"]
        return figures

    compared = prepare(check, "nanogpt")
    if compared:
        for shape in SHAPES[check.quick]:
            difference = loss_difference(check, shape)
            check.results.add_note("nanogpt", f"{shape}: with equal weights, the losses differ by {difference:.1e}")
            if not difference < LARGEST_DIFFERENCE:
                raise MicrogptError(f"{shape}: the programs do not compute the same model")
    measurements = []
    for dtype, kernels in ORDER:
        for shape in SHAPES[check.quick]:
            for program, kernel in [("nanoGPT", kernels[0])] * compared + [("microgpt", k) for k in kernels]:
                row: Row = {"model": str(shape), "program": program, "dtype": dtype, "kernel": kernel}
                measurements.append((row, partial(one, shape, program, dtype, kernel)))
    check.measure_all("nanogpt", measurements)


def nanogpt_row(check: Check, row: Row) -> Row:
    """Return nanoGPT's row for these settings, or an empty row if nanoGPT has not been measured."""
    wanted = {**row, "program": "nanoGPT"}.items()
    return next((found for found in check.results.part("nanogpt").rows if wanted <= found.items()), {})


def prepare(check: Check, part: str) -> bool:
    """Return whether nanoGPT is measured; add a note if it is not. Raises UserError if the folder is no checkout."""
    torch.backends.cuda.matmul.allow_tf32 = False
    if check.nanogpt_dir is None:
        check.results.add_note(part, "nanoGPT is left out: --nanogpt-dir is not set")
        return False
    load_model_file(check.nanogpt_dir)
    return True


def sample(check: Check) -> None:
    """Sample one text, a token at a time. For each token, nanoGPT computes all earlier tokens again."""
    count = SAMPLED[check.quick]

    def one(shape: Shape, program: str, dtype: str) -> Row:
        length = min(count, shape.block_size)
        if program == "nanoGPT":
            theirs = NanoGPT(check, shape, dtype, compiled=False)
            theirs.model.eval()
            begin = torch.zeros(1, 1, dtype=torch.int64, device=check.device)

            def text() -> None:
                with theirs.autocast():
                    theirs.model.generate(begin, length)[0].tolist()

        else:
            engine = ours(check, shape, dtype, "eager")

            def text() -> None:
                decoder = engine.decoder(0)
                token = 0
                for _ in range(length):
                    token = int(np.argmax(decoder.feed(token)))

        seconds = seconds_a_step(lambda texts: [text() for _ in range(texts)], check.seconds, warm_up=1)
        return {"tokens a second": length / seconds}

    programs = ["nanoGPT"] * prepare(check, "sampling") + ["microgpt"]
    rows: list[Row] = [
        {"model": str(shape), "program": program, "dtype": dtype}
        for shape in SHAPES[check.quick]
        for dtype in ("float32", "bfloat16")
        for program in programs
    ]
    shapes = {str(shape): shape for shape in SHAPES[check.quick]}
    check.measure_all(
        "sampling", [(row, partial(one, shapes[row["model"]], row["program"], row["dtype"])) for row in rows]
    )
