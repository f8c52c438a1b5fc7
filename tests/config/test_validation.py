"""An invalid value or combination of values gives one sentence with key, value and what is allowed."""

import re

import pytest
from omegaconf import OmegaConf
from support.compositions import composed, composition

from microgpt.config.hydra_schema import from_values
from microgpt.config.validation import check
from microgpt.errors import UserError

# (overrides, the key that the sentence names, the value that it names)
BROKEN = [
    (["task.name=dance"], "task.name", "dance"),
    (["mode.name=vector"], "mode.name", "vector"),
    (["backend.name=abacus"], "backend.name", "abacus"),
    (["backend=torch"], "backend", "torch"),
    (["mode=tensor", "backend=python"], "backend", "python"),
    (["mode=tensor", "backend=native", "backend.device=cuda"], "backend.device", "cuda"),
    (["mode=tensor", "backend=native", "backend.dtype=bfloat16"], "backend.dtype", "bfloat16"),
    (["mode=tensor", "backend=native", "backend.compile=true"], "backend.compile", "true"),
    (["mode=tensor", "backend=auto", "backend.micro_batch=4"], "backend.micro_batch", "4"),
    (["mode=tensor", "backend=native", "backend.kernel=lanes"], "backend.kernel", "lanes"),
    (["mode=tensor", "backend=torch", "backend.kernel=features"], "backend.kernel", "features"),
    (["mode=tensor", "backend=torch", "backend.device=mps", "backend.dtype=float64"], "backend.dtype", "float64"),
    (["mode=tensor", "backend=torch", "backend.micro_batch=0"], "backend.micro_batch", "0"),
    (["mode=tensor", "backend.threads=0"], "backend.threads", "0"),
    (["backend.threads=2"], "backend.threads", "2"),
    (["backend.dtype=float32"], "backend.dtype", "float32"),
    (["task=sample", "checkpoint=x", "sample.bulk=true"], "sample.bulk", "true"),
    (["mode=tensor", "backend=torch", "task=sample", "checkpoint=x", "sample.bulk=true"], "sample.bulk", "true"),
    (["mode=tensor", "sample.bulk=true"], "sample.bulk", "true"),
    (["model.kind=rnn"], "model.kind", "rnn"),
    (["model.activation=tanh"], "model.activation", "tanh"),
    (["model.position=alibi"], "model.position", "alibi"),
    (["model.position=rope", "model.n_embd=12"], "model.position", "rope"),
    (["model.rope_theta=500"], "model.rope_theta", "500.0"),
    (["model.position=rope", "model.rope_theta=0"], "model.rope_theta", "0.0"),
    (["model.norm=batchnorm"], "model.norm", "batchnorm"),
    (["model.norm_eps=0"], "model.norm_eps", "0.0"),
    (["model.mlp_width=0"], "model.mlp_width", "0"),
    (["model.n_kv_head=3"], "model.n_kv_head", "3"),
    (["model.logit_softcap=0"], "model.logit_softcap", "0.0"),
    (["model.residual_init=ones"], "model.residual_init", "ones"),
    (["model.zero_init_residual=true", "model.residual_init=scaled"], "model.residual_init", "scaled"),
    (["model.init=xavier"], "model.init", "xavier"),
    (["model=bigram", "model.final_norm=true"], "model.final_norm", "true"),
    (["model.block_size=0"], "model.block_size", "0"),
    (["model.init_std=-0.1"], "model.init_std", "-0.1"),
    (["model.init_std=inf"], "model.init_std", "inf"),
    (["model.n_embd=18"], "model.n_embd", "18"),
    (["model.n_embd=null"], "model.n_embd", "null"),
    (["model.n_head=0"], "model.n_head", "0"),
    (["model.n_layer=0"], "model.n_layer", "0"),
    (["model=bigram", "model.n_embd=16"], "model.n_embd", "16"),
    (["model=bigram", "model.zero_init_residual=true"], "model.zero_init_residual", "true"),
    (["model=bigram", "model.activation=relu_squared"], "model.activation", "relu_squared"),
    (["style.name=../up"], "style.name", "../up"),
    (["style.share=1"], "style.share", "1.0"),
    (["style.share=nan"], "style.share", "nan"),
    (["style.share=0"], "style.share", "0.0"),
    (["style=classic", "style.share=0.1"], "style.share", "0.1"),
    (["style.phrases=[neon,'']"], "style.phrases", "['neon', '']"),
    (["style.documents=['  ']"], "style.documents", "['  ']"),
    (["style.bias=inf"], "style.bias", "inf"),
    (["style.long_documents=fold"], "style.long_documents", "fold"),
    (["data.name=poems"], "data.name", "poems"),
    (["data.format=xml"], "data.format", "xml"),
    (["data.format=stream"], "data.format", "stream"),
    (["data.long_documents=fold"], "data.long_documents", "fold"),
    (["data.val_fraction=1"], "data.val_fraction", "1.0"),
    (["data.val_fraction=-0.1"], "data.val_fraction", "-0.1"),
    (["data.val_fraction=nan"], "data.val_fraction", "nan"),
    (["data.path=input.txt"], "data.path", "input.txt"),
    (["data=text"], "data.path", "null"),
    (["optim.name=newton"], "optim.name", "newton"),
    (["optim.lr=-1"], "optim.lr", "-1.0"),
    (["optim.lr=nan"], "optim.lr", "nan"),
    (["optim.beta1=1"], "optim.beta1", "1.0"),
    (["optim.beta2=-0.5"], "optim.beta2", "-0.5"),
    (["optim.beta2=null"], "optim.beta2", "null"),
    (["optim.eps=0"], "optim.eps", "0.0"),
    (["optim.grad_clip=0"], "optim.grad_clip", "0.0"),
    (["optim.momentum=0.9"], "optim.momentum", "0.9"),
    (["optim=sgd", "optim.momentum=1"], "optim.momentum", "1.0"),
    (["optim=sgd", "optim.beta1=0.9"], "optim.beta1", "0.9"),
    (["optim=adamw", "optim.weight_decay=-1"], "optim.weight_decay", "-1.0"),
    (["schedule.name=zigzag"], "schedule.name", "zigzag"),
    (["schedule.warmup_steps=-1"], "schedule.warmup_steps", "-1"),
    (["schedule=warmdown", "schedule.warmdown_steps=0"], "schedule.warmdown_steps", "0"),
    (["schedule.warmdown_steps=5"], "schedule.warmdown_steps", "5"),
    (["train.steps=100", "schedule.total_steps=99"], "schedule.total_steps", "99"),
    (["train.steps=-1"], "train.steps", "-1"),
    (["train.batch_size=0"], "train.batch_size", "0"),
    (["train.log_every=0"], "train.log_every", "0"),
    (["train.eval_every=0"], "train.eval_every", "0"),
    (["train.eval_documents=0"], "train.eval_documents", "0"),
    (["train.checkpoint_every=0"], "train.checkpoint_every", "0"),
    (["train.keep_checkpoints=0"], "train.keep_checkpoints", "0"),
    (["train.last_n=0"], "train.last_n", "0"),
    (["train.max_memory_growth=1"], "train.max_memory_growth", "1.0"),
    (["train.max_memory_growth=nan"], "train.max_memory_growth", "nan"),
    (["train.resume=''"], "train.resume", "''"),
    (["sample.temperature=-0.1"], "sample.temperature", "-0.1"),
    (["sample.temperature=inf"], "sample.temperature", "inf"),
    (["sample.top_k=0"], "sample.top_k", "0"),
    (["sample.num_samples=-1"], "sample.num_samples", "-1"),
    (["sample.max_new_tokens=0"], "sample.max_new_tokens", "0"),
    (["task=sample"], "checkpoint", "null"),
    (["checkpoint=latest"], "checkpoint", "latest"),
]


@pytest.mark.parametrize(("overrides", "key", "value"), BROKEN, ids=[" ".join(overrides) for overrides, *_ in BROKEN])
def test_broken_rule_names_key_and_value(overrides: list[str], key: str, value: str) -> None:
    config = composed(*overrides)
    with pytest.raises(UserError) as caught:
        check(config)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith((f"{key}={value} ", f"{key}: "))
    assert re.search(rf"(?<![\w.]){re.escape(value)}(?![\w])", sentence)


def test_key_added_with_plus_is_refused_with_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"^train\.step is not a key: .*did you mean train\.steps\?$"):
        from_values(OmegaConf.to_container(composition("+train.step=3"), resolve=True), {})


def test_temperature_zero_and_the_widest_allowed_values_are_accepted() -> None:
    check(composed("sample.temperature=0", "sample.num_samples=0", "train.steps=0", "optim.lr=0", "model.init_std=0"))
    check(composed("train.eval_every=null", "train.checkpoint_every=null", "train.max_memory_growth=null"))
    check(composed("train.steps=10", "schedule.total_steps=10", "data.val_fraction=0"))
