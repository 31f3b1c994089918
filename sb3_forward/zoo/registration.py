"""Add the forward algorithms, their hyperparameters and their search spaces to the RL Zoo."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

ALGO_NAMES = ("forward_a2c", "forward_ppo")

ZooHook = Callable[[ModuleType], None]
Complaint = Callable[[Exception], None]

_registered = False


def register(say_why: Complaint | None = None) -> None:
    """
    Register ``forward_a2c`` and ``forward_ppo`` with the RL Zoo.

    Modules of the Zoo that are imported already are changed at once, and others as soon as they are imported. A second call
    does nothing.

    :param say_why: called with any error in the import of a module of the Zoo, which then goes on without our algorithms;
        without it, that import raises the error
    :raises FileNotFoundError: if our hyperparameters are missing
    """
    global _registered
    if _registered:
        return
    for algo in ALGO_NAMES:
        if not default_config(algo).is_file():
            raise FileNotFoundError(f"{default_config(algo)} is missing: install sb3-forward again, and not into a zip file")
    _registered = True
    wrapt.register_post_import_hook(_guarded(_add_algorithms, say_why), "rl_zoo3.utils")
    wrapt.register_post_import_hook(_guarded(_add_search_spaces, say_why), "rl_zoo3.hyperparams_opt")
    wrapt.register_post_import_hook(_guarded(_add_default_config, say_why), "rl_zoo3.exp_manager")
    wrapt.register_post_import_hook(_guarded(_mend_push_to_hub, say_why), "huggingface_sb3.push_to_hub")


def default_config(algo: str) -> Path:
    """
    Find the hyperparameters that this package ships.

    :param algo: ``forward_a2c`` or ``forward_ppo``
    :return: their file; in a checkout, that at its root
    """
    package = Path(__file__).parent.parent
    folder = package / "hyperparams"
    return (folder if folder.is_dir() else package.parent / "hyperparams") / f"{algo}.yml"


def _guarded(hook: ZooHook, say_why: Complaint | None) -> ZooHook:
    """
    Wrap a post-import hook, whose errors would break the import of the Zoo for users who have not asked for our algorithms.
    """

    @wraps(hook)
    def guarded(module: ModuleType) -> None:
        try:
            hook(module)
        except Exception as error:
            if say_why is None:
                raise
            say_why(error)

    return guarded


def _add_algorithms(utils: ModuleType) -> None:
    from sb3_forward.a2c import ForwardA2C
    from sb3_forward.ppo import ForwardPPO

    # The dictionary is changed in place: every script of the Zoo holds it, and argparse reads its choices from it
    utils.ALGOS.update(forward_a2c=ForwardA2C, forward_ppo=ForwardPPO)


def _add_search_spaces(hyperparams_opt: ModuleType) -> None:
    from sb3_forward.zoo.tuning import CONVERTERS, SAMPLERS

    hyperparams_opt.HYPERPARAMS_SAMPLER.update(SAMPLERS)
    hyperparams_opt.HYPERPARAMS_CONVERTER.update(CONVERTERS)


def _add_default_config(exp_manager: ModuleType) -> None:
    wrapt.wrap_function_wrapper(exp_manager, "ExperimentManager.__init__", _init_with_default_config)
    wrapt.wrap_function_wrapper(exp_manager, "ExperimentManager.read_hyperparameters", _read_what_fits_the_observations)


def _mend_push_to_hub(push_to_hub: ModuleType) -> None:
    # rl_zoo3 2.9 imports a name that sb3-team-hf-integration 3.2 made private, and reads its result as a dictionary. Without
    # this, it can push no agent
    if not hasattr(push_to_hub, "generate_metadata") and hasattr(push_to_hub, "_generate_metadata"):
        generate = push_to_hub._generate_metadata
        push_to_hub.generate_metadata = lambda *args: generate(*args).to_dict()  # type: ignore[attr-defined]


def _init_with_default_config(wrapped: Callable, instance: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """
    Pass our hyperparameters to the Zoo, which looks for those of every algorithm in its own folder unless ``config`` is given.
    """
    given = inspect.signature(wrapped).bind(*args, **kwargs)
    algo = given.arguments["algo"]
    if algo in ALGO_NAMES and not given.arguments.get("config"):
        given.arguments["config"] = str(default_config(algo))
    wrapped(*given.args, **given.kwargs)


def _read_what_fits_the_observations(
    wrapped: Callable, instance: Any, args: tuple, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Read hyperparameters, and leave out the normalisation of our default entry where observations are no numbers to normalise.
    """
    hyperparams, saved_hyperparams = wrapped(*args, **kwargs)
    ours = instance.algo in ALGO_NAMES and instance.config == str(default_config(instance.algo))
    asked_for = {"normalize", "env_wrapper"} & set(instance.custom_hyperparams or {})
    if ours and not asked_for and hyperparams.get("normalize") and not _normalizable(instance):
        print(f"The observations of {instance.env_name.gym_id} are no vectors: training without VecNormalize")
        for parameters in (hyperparams, saved_hyperparams):
            parameters.pop("normalize")
    return hyperparams, saved_hyperparams


def _normalizable(experiment: Any) -> bool:
    import gymnasium as gym

    env = gym.make(experiment.env_name.gym_id, **experiment.env_kwargs)
    env.close()
    return are_vectors(env.observation_space)


def are_vectors(space: Any) -> bool:
    """
    Check whether ``VecNormalize`` can normalise observations.

    :param space: space of the observations
    :return: whether they, or all parts of them, are arrays of numbers
    """
    from gymnasium import spaces

    parts = space.values() if isinstance(space, spaces.Dict) else [space]
    return all(isinstance(part, spaces.Box) for part in parts)
