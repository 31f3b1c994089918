"""A newer Stable-Baselines3 has changed what we override, or were written after: told here by name, not by odd results."""

import hashlib
import importlib
import inspect
import io
import tokenize
from collections.abc import Callable
from typing import Any

import pytest
import stable_baselines3
from stable_baselines3 import A2C, PPO

from sb3_forward import ForwardA2C, ForwardCnnPolicy, ForwardMultiInputPolicy, ForwardPolicy, ForwardPPO
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm
from sb3_forward.policies import SparingCategorical

SB3 = f"Stable-Baselines3 {stable_baselines3.__version__}"
CLASSES = (ForwardA2C, ForwardPPO, ForwardPolicy, ForwardCnnPolicy, ForwardMultiInputPolicy, SparingCategorical)
# What is in front of several constructors of SB3 hands their arguments on as they come
HANDS_ON = (ForwardOnPolicyAlgorithm, ForwardPolicy)
# Names of classes, the one thing that ours default to otherwise
OWN_DEFAULTS = ("tb_log_name", "mlp_class_name")


def overrides() -> list[Any]:
    """Our class, the class of SB3 that it comes before, and the name of a method of both."""
    found = set()
    for cls in CLASSES:
        for name in dir(cls):
            owners = [owner for owner in cls.__mro__ if inspect.isfunction(vars(owner).get(name))]
            theirs = [owner for owner in owners if owner.__module__.startswith("stable_baselines3.")]
            ours = [owner for owner in owners if owner.__module__.startswith("sb3_forward.")]
            found |= {(owner, theirs[0], name) for owner in ours if theirs}
    return [pytest.param(*case, id=f"{case[0].__name__}.{case[2]}-{case[1].__name__}") for case in sorted(found, key=str)]


def parameters(method: Callable[..., Any]) -> dict[str, Any]:
    """Kind and default of each parameter, by name in their order."""
    signature = inspect.signature(method).parameters
    return {key: (given.kind, key in OWN_DEFAULTS or given.default) for key, given in signature.items() if key != "self"}


@pytest.mark.parametrize(("ours", "theirs", "name"), overrides())
def test_overrides_have_the_signature_of_sb3(ours: type, theirs: type, name: str) -> None:
    expected, given = parameters(vars(theirs)[name]), parameters(vars(ours)[name])
    where = f"{SB3}: {theirs.__name__}.{name}{inspect.signature(vars(theirs)[name])}, which {ours.__name__} overrides,"
    if name == "__init__":
        own = {key for key, (kind, _) in given.items() if kind is inspect.Parameter.KEYWORD_ONLY}
        assert not expected.keys() & own, f"{where} has a parameter that we have, too: rename ours"
        given = {key: parameter for key, parameter in given.items() if key not in own}
    if name != "__init__" or ours not in HANDS_ON:
        # As lists, for their order
        assert list(expected.items()) == list(given.items()), (
            f"{where} has other parameters than ours: give {ours.__module__} the same"
        )
    else:
        assert given.keys() == {"args", "kwargs"}


@pytest.mark.parametrize(("ours", "theirs"), [(ForwardA2C, A2C), (ForwardPPO, PPO)])
def test_parameters_of_sb3_have_its_types(ours: type, theirs: type) -> None:
    expected, given = (inspect.signature(cls).parameters for cls in (theirs, ours))
    assert {key: given[key].annotation for key in expected} == {
        key: parameter.annotation for key, parameter in expected.items()
    }


def test_overrides_are_found() -> None:
    """The check above can fail: it sees what must be there."""
    names = {case.values[2] for case in overrides()}
    assert {"__init__", "_setup_model", "train", "learn", "save", "collect_rollouts", "_build"} <= names


# What ours were written after, with the place of ours and the fingerprints of the versions that were looked at
WRITTEN_AFTER: dict[str, tuple[str, tuple[str, ...]]] = {
    "ppo.ppo:PPO.train": ("sb3_forward/ppo.py, Surrogate", ("020a6f06",)),
    "a2c.a2c:A2C.train": ("sb3_forward/a2c.py, _objective", ("c385ac12",)),
    "common.on_policy_algorithm:OnPolicyAlgorithm.collect_rollouts": (
        "sb3_forward/rollouts/recorder.py and guarded.py",
        ("00ea8aae",),
    ),
    "common.policies:ActorCriticPolicy.forward": ("sb3_forward/rollouts/recorder.py", ("dbf9f4c7",)),
    "common.policies:ActorCriticPolicy.evaluate_actions": ("sb3_forward/heads/heads.py, evaluate", ("4d695401",)),
    "common.policies:ActorCriticPolicy.extract_features": ("sb3_forward/local/root.py, Root and prepare", ("9b345985",)),
    "common.policies:ActorCriticPolicy._build": ("sb3_forward/policies.py, _build", ("7853be70",)),
    "common.policies:ActorCriticPolicy._get_action_dist_from_latent": ("sb3_forward/heads/gradients.py", ("fb12c98d",)),
    "common.distributions:CategoricalDistribution.proba_distribution": ("sb3_forward/policies.py", ("e8952bd4",)),
    "common.distributions:DiagGaussianDistribution.log_prob": ("sb3_forward/heads/gradients.py, _gaussian", ("ade83609",)),
    "common.torch_layers:NatureCNN.forward": ("sb3_forward/local/splitting.py, traced", ("8e2d4afb",)),
    "common.torch_layers:FlattenExtractor.forward": ("sb3_forward/local/splitting.py, traced", ("5c4d62b4",)),
    "common.torch_layers:CombinedExtractor.forward": ("sb3_forward/local/splitting.py, traced", ("a0bca343",)),
    "common.torch_layers:MlpExtractor.forward_actor": ("sb3_forward/local/root.py, Root and Top", ("309f6471",)),
    "common.buffers:RolloutBuffer.get": ("sb3_forward/on_policy.py, train", ("1fbea5e8",)),
    "common.buffers:RolloutBuffer._get_samples": ("sb3_forward/on_policy.py, _observations", ("46afebaa",)),
    "common.save_util:open_path_pathlib": ("sb3_forward/files/atomic.py, _target", ("de7a8843",)),
}


def fingerprint(source: str) -> str:
    """Of the code alone, without comments, docstrings and layout."""
    code, line_begins = "", True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            line_begins = True
        elif token.type not in (tokenize.COMMENT, tokenize.NL):
            docstring = line_begins and token.type == tokenize.STRING
            code += "" if docstring else "".join(token.string.split())
            line_begins = False
    return hashlib.sha256(code.encode()).hexdigest()[:8]


def test_fingerprint() -> None:
    base = 'def f(a):\n    return f"{a + 1}"\n'
    documented = 'def f(a):\n    """Says more."""\n\n    # The successor\n    return f"{a + 1}"  # of a\n'
    broken_up = 'def f(\n    a\n):\n    return f"{a + 1}"\n'
    changed = 'def f(a):\n    return f"{a + 2}"\n'
    assert fingerprint(base) == fingerprint(documented) == fingerprint(broken_up)
    assert fingerprint(base) != fingerprint(changed)


@pytest.mark.parametrize("name", WRITTEN_AFTER)
def test_what_ours_were_written_after(name: str) -> None:
    module, _, attributes = name.partition(":")
    found: Any = importlib.import_module(f"stable_baselines3.{module}")
    for attribute in attributes.split("."):
        found = getattr(found, attribute, None)
    place, known = WRITTEN_AFTER[name]
    assert found is not None, f"{SB3} has no {attributes} any more: see what {place} needs instead"
    now = fingerprint(inspect.getsource(found))
    assert now in known, f"{SB3} has changed {attributes}: see what that means for {place}, and add the fingerprint {now!r}"
