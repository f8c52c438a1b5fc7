"""hydra/sweeper=ladder: trains a model and its cumulative changes, each with all seeds."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from hydra.core.override_parser.types import Override

from microgpt.errors import UserError
from microgpt.model.spec import ModelSpec
from microgpt.sweeps.failures import FailedJob
from microgpt.sweeps.sweepers import PlannedSweeper, Stage, Stages, values_of, what_is_trained

WIDTH = "model.mlp_width"  # adjusted to equalize sizes: the key that changes the size in the smallest steps


class LadderSweeper(PlannedSweeper):
    """Trains the model of each of ladder.rungs. A model of another size is also trained with the first model's size."""

    node = "ladder"

    def stages(self, overrides: list[Override]) -> Stages:
        values = values_of(overrides)
        for key, choices in values.items():
            if len(choices) > 1 and key != "seed":
                raise UserError(
                    f"{key} has {len(choices)} values: apart from its rungs, a ladder can only have a list of seeds"
                )
        rungs = self.rungs(values)
        seeds = values.pop("seed", ["seed=42"])
        fixed = [choices[0] for choices in values.values()]
        models = [[*rung, *fixed] for rung in rungs]
        specs = self.specs(models)
        jobs = [[*model, f"ladder.rung={rung}"] for rung, model in enumerate(models)]
        resized = []
        for rung, spec in enumerate(specs if self.master.ladder.equal_size else []):
            width = nearest_width(spec, specs[0].parameter_count())
            if width is not None:
                resized.append([*jobs[rung], f"{WIDTH}={width}", "ladder.resized=true"])
        every = [[*job, seed] for job, seed in product([*jobs, *resized], seeds)]
        plan = f"ladder of {len(jobs) - 1} change{'s' if len(jobs) > 2 else ''}: {len(jobs)} models"
        if resized:
            plan += f", {len(resized)} of them again with about {specs[0].parameter_count():,} parameters ({WIDTH})"
        yield Stage(every, [f"{plan}; {len(seeds)} seeds each: {len(every):,} runs"])

    def rungs(self, values: dict[str, list[str]]) -> list[list[str]]:
        """Return the overrides of each model: those of its rung and, for other keys, those of earlier rungs."""
        given = list(self.master.ladder.rungs)
        if len(given) < 2:
            raise UserError(f"ladder.rungs={given} is not allowed: give a model and one or more changes")
        found: list[list[str]] = []
        known: dict[str, str] = {}
        for text in given:
            for override in text.split():
                key = override.partition("=")[0]
                if key in values:
                    raise UserError(f"{values[key][0]} is not allowed: a rung of the ladder changes {key}")
                known[key] = override
            found.append(list(known.values()))
        return found

    def specs(self, models: Sequence[Sequence[str]]) -> list[ModelSpec]:
        """Return the model of each rung. Raises UserError if a model is not possible or equal to another."""
        from microgpt.training.from_config import model_spec
        from microgpt.training.run_inputs import InputReader

        reader = self.checker.reader = self.checker.reader or InputReader()
        specs: list[ModelSpec] = []
        seen: dict[str, int] = {}
        for rung, found in enumerate(self.probe(models)):
            name = f"ladder.rungs[{rung}]={self.master.ladder.rungs[rung]}"
            if isinstance(found, FailedJob):
                raise UserError(f"{name}: {found.error}")
            same = seen.setdefault(what_is_trained(found), rung)
            if same != rung:
                raise UserError(f"{name} is not allowed: it gives the same model as ladder.rungs[{same}]")
            specs.append(model_spec(found, reader.corpus(found).tokenizer.vocab_size))
        return specs


def nearest_width(spec: ModelSpec, parameters: int) -> int | None:
    """Return the width of the MLP with which the model's size is closest to a number of parameters.

    None if the model already has this width, or has no MLP.
    """
    now, own = spec.parameter_count(), spec.mlp_features
    of_feature = replace(spec, mlp_width=own + 1).parameter_count() - now
    if of_feature == 0:
        return None
    width = max(1, own + round((parameters - now) / of_feature))
    return None if width == own else width
