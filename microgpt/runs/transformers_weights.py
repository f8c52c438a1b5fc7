"""Converts a model's tensors to and from the layout of Hugging Face transformers classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from microgpt.model.spec import ModelSpec, constant_value

Tensors = dict[str, np.ndarray]  # tensors of one model, without the axis R


@dataclass(frozen=True)
class Stored:
    """A tensor of a transformers class: one or more microgpt tensors, concatenated along the output axis."""

    name: str
    parts: tuple[str, ...]
    form: str = "matrix"  # a key of FORMS


@dataclass(frozen=True)
class Form:
    """Conversions of a microgpt tensor to and from the layout of a class."""

    to: Callable[[np.ndarray, ModelSpec], np.ndarray]
    back: Callable[[np.ndarray, ModelSpec], np.ndarray]
    axis: int = 0  # output axis in the class's layout


def half_swapped(matrix: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Swap the halves of each head's features: nanochat's RoPE rotates in the other direction. Its own inverse."""
    halves = matrix.reshape(-1, 2, spec.head_dim // 2, matrix.shape[1])
    return halves[:, ::-1].reshape(matrix.shape)


FORMS = {
    "matrix": Form(lambda a, spec: a, lambda a, spec: a),
    "conv1d": Form(lambda a, spec: a.T, lambda a, spec: a.T, axis=1),  # (inputs, outputs)
    "vector": Form(lambda a, spec: a[0], lambda a, spec: a[np.newaxis]),
    "half_swapped": Form(half_swapped, half_swapped),
}


def to_stored(entries: Sequence[Stored], spec: ModelSpec, arrays: Tensors) -> Tensors:
    """Return the tensors of a class. Gains and biases of `spec` that are not in `arrays` are set to ones and zeros."""
    found = {}
    filled = {
        name: arrays[name] if name in arrays else np.full(shape, constant_value(name), arrays["wte"].dtype)
        for name, shape in spec.shapes().items()
    }
    for stored in entries:
        form = FORMS[stored.form]
        parts = [form.to(filled[part], spec) for part in stored.parts]
        found[stored.name] = np.ascontiguousarray(np.concatenate(parts, axis=form.axis))
    return found


def from_stored(entries: Sequence[Stored], spec: ModelSpec, tensors: Tensors) -> Tensors:
    """Return microgpt's tensors. Raises ValueError if one is missing or has the wrong shape."""
    shapes, found = spec.shapes(), {}
    for stored in entries:
        if stored.name not in tensors:
            raise ValueError(f"the tensor {stored.name} is missing")
        form, tensor = FORMS[stored.form], tensors[stored.name]
        templates = [form.to(np.empty(shapes[part]), spec) for part in stored.parts]
        expected = np.concatenate(templates, axis=form.axis).shape
        if tensor.shape != expected:
            raise ValueError(f"{stored.name} has the shape {tensor.shape}, but config.json requires {expected}")
        ends = np.cumsum([template.shape[form.axis] for template in templates])
        for name, part in zip(stored.parts, np.split(tensor, ends[:-1], axis=form.axis), strict=True):
            found[name] = form.back(part, spec)
    return {name: found[name] for name in shapes}
