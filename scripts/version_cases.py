"""The cases of compare_versions.py: small runs of every engine, model, optimizer, schedule, kind of data and task."""

import json
from dataclasses import dataclass
from typing import Any

SHORT = (
    "train.steps=40 train.log_every=1 train.eval_every=20 train.eval_documents=20 train.checkpoint_every=20"
    " sample.num_samples=5"
)
SCALAR, NATIVE = f"mode=scalar {SHORT}", f"mode=tensor backend=native {SHORT}"
TORCH = f"mode=tensor backend=torch backend.device=cpu {SHORT}"
DEEP = "model.n_layer=2 model.n_head=8 model.block_size=12"
TOGGLED = "model.tie_lm_head=true model.input_rmsnorm=false"
ADAMW = "optim=adamw optim.weight_decay=0.1 optim.grad_clip=0.5 schedule.warmup_steps=5"
SGD = "optim=sgd optim.momentum=0.9 optim.grad_clip=1.0"
KARPATHY = "train.steps=30 train.checkpoint_every=10 sample.num_samples=5"
# Long enough to be interrupted; the last two checkpoints, which are kept, are written after the interruption.
SLOW = f"mode=scalar {ADAMW} train.steps=300 train.log_every=1 train.eval_documents=20 train.checkpoint_every=100"
LONG = (
    f"mode=tensor backend=native {DEEP} train.batch_size=4 train.steps=20000 train.log_every=500 train.eval_every=5000"
    " train.eval_documents=20 train.checkpoint_every=5000"
)
CHAT = "experiment=chat train.batch_size=4 train.log_every=1 train.eval_documents=5 sample.num_samples=2"
SMALL_CHAT = f"{CHAT} train.steps=40 schedule.warmup_steps=5 model.n_embd=32 model.n_layer=2 model.block_size=64"
QUESTIONS = "hello\nwhat is 2 + 3?\n/temperature 0.7\nwho are you?\n"
MESSAGES = [{"role": "user", "content": "hello"}]
REQUESTS = [
    ("/microgpt/v1/generate", {"num_samples": 3, "seed": 1, "prompt": "he", "max_tokens": 12}),
    ("/microgpt/v1/chat", {"messages": MESSAGES, "seed": 2, "top_k": 5, "max_tokens": 12}),
    ("/microgpt/v1/stream", {"messages": MESSAGES, "seed": 3, "candidates": 2, "max_tokens": 6}),
    ("/microgpt/v1/attention", {"text": "hello"}),
    ("/v1/completions", {"model": "gpt_chat", "prompt": "hi", "n": 2, "seed": 4, "max_tokens": 12}),
    ("/v1/chat/completions", {"model": "gpt_chat", "messages": MESSAGES, "seed": 5, "max_tokens": 12}),
]
WORDS = ["cat", "river", "stone", "cloud", "engine", "moon", "garden", "hill"]
INPUTS = {  # files in the parent folder of the cases
    "lines.txt": "\n".join(f"the {a} sees the {b}" for a in WORDS for b in WORDS),
    "conversations.jsonl": "\n".join(
        json.dumps([{"role": "user", "content": f"{a} or {b}?"}, {"role": "assistant", "content": min(a, b)}])
        for a in WORDS for b in WORDS
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One `python -m microgpt` command."""

    arguments: str
    stdin: str = ""
    until: str = ""  # a pattern; SIGTERM is sent once it is printed
    requests: tuple[tuple[str, dict[str, Any]], ...] = ()  # sent before SIGTERM, to the address that `until` matches


CASES: dict[str, list[str | Step]] = {
    "scalar_classic": [f"{SCALAR} style=classic"],
    "scalar_futuristic_toggled": [f"{SCALAR} {TOGGLED}"],
    "scalar_bigram": [f"{SCALAR} model=bigram schedule=constant"],
    "scalar_gpt_first": [f"{SCALAR} model=gpt_first schedule=cosine"],
    "scalar_deep_adamw": [f"{SCALAR} {DEEP} {ADAMW} model.n_embd=8 train.batch_size=3 schedule=warmdown"],
    "scalar_sgd": [f"{SCALAR} {SGD} schedule=sqrt"],
    "native_one_thread": [f"{NATIVE} backend.threads=1 style=classic"],
    "native_two_threads": [f"{NATIVE} backend.threads=2 train.batch_size=32 {DEEP} model.n_embd=128"],
    "native_float64_toggled": [f"{NATIVE} backend.dtype=float64 {TOGGLED}"],
    "native_bigram": [f"{NATIVE} model=bigram model.tie_lm_head=true"],
    "native_gpt_first": [f"{NATIVE} model=gpt_first backend.dtype=float64 train.batch_size=20"],
    "native_deep_adamw": [f"{NATIVE} {DEEP} {ADAMW} train.batch_size=8 model.activation=relu_squared"],
    "native_sgd": [f"{NATIVE} {SGD} model.input_rmsnorm=false"],
    "torch_classic": [f"{TORCH} style=classic"],
    "torch_float64_toggled": [f"{TORCH} backend.dtype=float64 {TOGGLED}"],
    "torch_bigram_sgd": [f"{TORCH} model=bigram {SGD}"],
    "torch_deep_adamw": [f"{TORCH} {DEEP} {ADAMW} train.batch_size=8 backend.micro_batch=3"],
    "torch_gpt_first": [f"{TORCH} model=gpt_first train.batch_size=4"],
    "text_lines": [f"{SCALAR} data=text data.path=../lines.txt data.long_documents=window model.block_size=8"],
    "text_stream": [f"{NATIVE} data=text data.path=../lines.txt data.format=stream"],
    "chat_experiment": [f"{CHAT} train.steps=4 schedule.warmup_steps=1 data.loss_on=all"],
    "chat_own_file": [f"{SMALL_CHAT} data.path=../conversations.jsonl backend=torch backend.threads=1"],
    "karpathy": [f"experiment=karpathy {KARPATHY}"],
    "karpathy_first": [f"experiment=karpathy_first {KARPATHY}"],
    "karpathy_native": [f"experiment=karpathy mode=tensor backend.dtype=float64 {KARPATHY}"],
    "ablation": ["experiment=ablation seed=range(4) train.steps=30 train.eval_documents=20 sample.num_samples=2"],
    "sweep_seeds_lr": [f"-m {NATIVE} seed=range(4) optim.lr=0.01,0.005 optim.grad_clip=1.0"],
    "sweep_schedules": [f"-m {NATIVE} schedule=linear,cosine,warmdown,sqrt,constant schedule.warmup_steps=4"],
    "sweep_scalar": [f"-m {SCALAR} model=gpt,bigram seed=1,2"],
    "sweep_torch": [f"-m {TORCH} optim=adam,sgd seed=1,2"],
    "sweep_joblib": [f"-m {NATIVE} seed=1,2 hydra/launcher=vectorized_joblib hydra.launcher.workers=2"],
    "interrupted_scalar": [Step(SLOW, until="step +60 "), SLOW],
    "interrupted_native": [Step(LONG, until="step +4000 "), LONG],
    "new_leg": [f"{NATIVE} train.batch_size=2", f"{NATIVE} train.resume=latest schedule=cosine optim.lr=0.005"],
    "sample": [
        NATIVE,
        "task=sample checkpoint=latest",
        "task=sample checkpoint=latest mode=tensor sample.prompt=an sample.temperature=0.8 sample.num_samples=5",
        "task=sample checkpoint=latest sample.top_k=3 sample.max_new_tokens=40 sample.seed=7 style.bias=0",
        "task=sample checkpoint=latest mode=tensor backend=torch sample.temperature=0 sample.num_samples=1",
        "task=sample checkpoint=latest mode=tensor sample.bulk=true sample.num_samples=50 style.bias=0",
    ],
    "export_info": [
        f"{NATIVE} {TOGGLED}",
        "task=info checkpoint=latest",
        "task=export checkpoint=latest",
        "task=export checkpoint=latest export.half=true export.path=half",
        "task=info checkpoint=half",
        "task=sample checkpoint=half",
        "task=export checkpoint=latest export.format=onnx",
    ],
    "chat_serve": [
        SMALL_CHAT,
        'task=sample checkpoint=latest mode=tensor "sample.prompt=what is 3 + 4?" sample.num_samples=3',
        Step("task=chat checkpoint=latest", stdin=QUESTIONS),
        Step("task=serve checkpoint=latest serve.port=0", until=r"http://[\d.]+:\d+", requests=tuple(REQUESTS)),
    ],
}  # fmt: skip
