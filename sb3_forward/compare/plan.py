"""
Plan the runs: combine environments, variants and seeds, and give each run all that its process needs.

The hyperparameter files are read here and nowhere else, so that the workers of a cluster need none of them.
"""

import argparse
import difflib
import inspect
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sb3_forward._cli import UserError, first_line, import_packages, make_env

# The changes of each variant to the hyperparameters of the forward class; "bp" is the stock algorithm
VARIANTS: dict[str, dict[str, Any]] = {
    "bp": {"hidden_training": "backprop"},
    "forward": {},
    "frozen": {"hidden_training": "frozen"},
    "unguided": {"guidance_coef": 0.0},
    "plain": {"whiten_heads": False},
    "linear": {"policy_kwargs": {"net_arch": []}},
    "bp-same": {"hidden_training": "backprop"},
}
# Keys that the Zoo takes from an entry before the rest goes to the constructor
ZOO_KEYS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "normalize",
    "vec_env_wrapper",
}
# Arguments that the Zoo itself gives to the constructor
TAKEN_KEYS = {"env", "seed", "verbose", "device", "tensorboard_log", "_init_setup_model"}


class Run(NamedTuple):
    """One training run, complete: it can be sent to another machine as JSON."""

    env: str
    algo: str  # the stock algorithm, "ppo" or "a2c"
    variant: str
    seed: int
    zoo_algo: str  # key of the class that is trained in the Zoo
    hyperparams: dict[str, Any]  # a whole entry as in the Zoo's YAML, without n_timesteps
    timesteps: int
    gym_packages: list[str]
    device: str = "cpu"
    points: int = 20  # of the learning curve
    curve_episodes: int = 5  # evaluated at each of them
    final_episodes: int = 20  # evaluated at the end, and with random actions

    @property
    def name(self) -> str:
        """Return the name of the run in messages."""
        return f"{self.env} {self.algo} {self.variant} seed {self.seed}"


class Question(NamedTuple):
    """A comparison that the user asked for."""

    envs: list[str]
    algo: str
    seeds: list[int]
    variants: dict[str, dict[str, Any]]  # name -> overrides
    common: dict[str, Any]  # overrides of every variant of the forward class
    timesteps: int | None
    same_parameters: bool  # "bp" on the forward class and its hyperparameters, too
    conf: Path | None
    bp_conf: Path | None
    gym_packages: list[str]
    device: str


def parse_seeds(text: str) -> list[int]:
    """
    Parse the seeds of a command line.

    :param text: ``"5"`` for the seeds 1 to 5, ``"11-15"`` for 11 to 15
    :return: the seeds
    :raises UserError: if it is neither, or there is no seed in it
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)", text)
    seeds = list(range(int(match[1] or 1), int(match[2]) + 1)) if match else []
    if not seeds:
        raise UserError(f"--seeds must be a number (5 for the seeds 1 to 5) or a range (11-15), got {text!r}")
    return seeds


def parse_overrides(texts: list[str]) -> dict[str, Any]:
    """
    Parse overrides of hyperparameters.

    :param texts: ``key:value`` each, with the value in Python, as in the Zoo's ``-params``
    :return: the values by key
    :raises UserError: if a text cannot be evaluated, or its value cannot be sent to another process
    """
    from rl_zoo3.utils import StoreDict

    overrides: dict[str, Any] = {}
    for text in texts:
        parsed = argparse.Namespace()
        try:
            StoreDict([], "overrides", nargs="+")(None, parsed, [text])
            json.dumps(parsed.overrides)
        except Exception as error:
            raise UserError(
                f"{text!r} is not key:value with a value in Python ({error}); write text in quotes within quotes, such as "
                "\"learning_rate:'lin_0.001'\" or \"policy_kwargs:'dict(activation_fn=nn.ReLU)'\""
            ) from error
        overrides.update(parsed.overrides)
    return overrides


def choose_variants(names: str, definitions: list[list[str]]) -> dict[str, dict[str, Any]]:
    """
    Choose the variants to run.

    :param names: names of variants, with commas between
    :param definitions: a name and ``key:value`` texts each; all of these variants run, too
    :return: overrides of the forward entry by name
    :raises UserError: if a name is unknown, or is not free for a definition
    """
    chosen: dict[str, dict[str, Any]] = {}
    for name in filter(None, names.split(",")):
        if name not in VARIANTS:
            raise UserError(f"unknown variant {name!r}, choose from {', '.join(VARIANTS)} or --define it")
        chosen[name] = VARIANTS[name]
    for name, *texts in definitions:
        # The name becomes a part of file names
        if not re.fullmatch(r"[\w.+-]+", name) or name in VARIANTS or name in chosen or not texts:
            raise UserError(f"--define takes a new name and key:value after it, got {' '.join([name, *texts])!r}")
        chosen[name] = parse_overrides(texts)
    if not chosen:
        raise UserError("no variant to run")
    return chosen


def make_plan(question: Question) -> tuple[list[Run], list[str]]:
    """
    Make the runs of a comparison.

    :param question: the comparison
    :return: the runs, with all variants of the first seed first, so that an early report compares all of them; and remarks
    :raises UserError: if something in it is unknown
    """
    import_packages(question.gym_packages)
    remarks: list[str] = []
    templates = [run for env in question.envs for run in _runs_of_env(question, env, remarks)]
    runs = [run._replace(seed=seed) for seed in question.seeds for run in templates]
    return runs, list(dict.fromkeys(remarks))


def _runs_of_env(question: Question, env: str, remarks: list[str]) -> list[Run]:
    from sb3_forward.zoo.registration import are_vectors, default_config

    forward_algo = f"forward_{question.algo}"
    made = make_env(env)
    made.close()
    stock = _entry(question.bp_conf or _stock_config(question.algo), env, remarks)
    ours = _entry(question.conf or default_config(forward_algo), env, remarks)
    shipped = question.conf is None and "env_wrapper" not in ours
    if shipped and not are_vectors(made.observation_space) and ours.pop("normalize", None):
        # As the registration does in the Zoo's own commands
        remarks.append(f"The observations of {env} are no vectors: forward training without VecNormalize")
    # Both sides get the budget of the stock algorithm
    budget = stock.pop("n_timesteps", 0)
    ours.pop("n_timesteps", None)
    timesteps = question.timesteps or int(budget)
    if timesteps < 1:
        raise UserError(f"no n_timesteps in the hyperparameters of {env}: give --timesteps")
    runs = []
    for variant, overrides in question.variants.items():
        if variant == "bp" and not question.same_parameters:
            zoo_algo, hyperparams = question.algo, stock
        else:
            zoo_algo, hyperparams = forward_algo, _changed({**ours, **question.common}, overrides)
        _check_keys(zoo_algo, variant, hyperparams)
        run = Run(env, question.algo, variant, 0, zoo_algo, hyperparams, timesteps, question.gym_packages, question.device)
        runs.append(run)
    return runs


def _changed(entry: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Apply overrides to an entry; policy_kwargs given as a dictionary extend those of the entry."""
    changed = {**entry, **overrides}
    before, after = entry.get("policy_kwargs"), overrides.get("policy_kwargs")
    if isinstance(before, str) and isinstance(after, dict):
        # The entry stays a string for the Zoo to evaluate, since the names in it mean something only there
        changed["policy_kwargs"] = f"{{**{before}, **{after!r}}}"
    elif isinstance(before, dict) and isinstance(after, dict):
        changed["policy_kwargs"] = {**before, **after}
    return changed


def _stock_config(algo: str) -> Path:
    import rl_zoo3

    return Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"


def _entry(config: Path, env: str, remarks: list[str]) -> dict[str, Any]:
    """Read the environment's hyperparameters, else those of another version of it, else the general ones."""
    import yaml
    from rl_zoo3.exp_manager import ExperimentManager

    try:
        entries = yaml.safe_load(config.read_text())
        json.dumps(entries)
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"cannot read hyperparameters from {config}: {first_line(error)}") from error
    if not isinstance(entries, dict):
        raise UserError(f"{config} holds no hyperparameters by environment")
    name, _, _ = env.rpartition("-v")
    versions = [key for key in entries if name and re.fullmatch(re.escape(name) + r"-v\d+", key)]
    found = env
    if env not in entries:
        if versions:
            found = max(versions, key=lambda key: int(key.rpartition("-v")[2]))
        else:
            found = "atari" if "atari" in entries and ExperimentManager.is_atari(env) else "default"
        remarks.append(f"{config}: no entry for {env}, using {found}")
    if not isinstance(entries.get(found), dict):
        raise UserError(f"{config}: no hyperparameters for {env}, nor a default")
    return dict(entries[found])


def _check_keys(zoo_algo: str, variant: str, hyperparams: dict[str, Any]) -> None:
    known = ZOO_KEYS | constructor_parameters(zoo_algo)
    for key in hyperparams:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise UserError(
                f"variant {variant}: {zoo_algo} has no hyperparameter {key!r}"
                + (f", did you mean {close[0]}?" if close else "")
            )


def constructor_parameters(zoo_algo: str) -> set[str]:
    """
    List the hyperparameters that the constructor of a class takes from an entry.

    :param zoo_algo: key of the class in the Zoo
    :return: their names
    """
    from rl_zoo3.utils import ALGOS

    from sb3_forward.zoo.registration import register

    register()
    return set(inspect.signature(ALGOS[zoo_algo]).parameters) - TAKEN_KEYS
