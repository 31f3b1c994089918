"""What docs/supported.md and docs/troubleshooting.md say is so: every pair of spaces is trained, every message can come."""

import re
from itertools import product
from typing import Any

import pytest
from gymnasium import spaces

from tests.bare_python import ROOT
from tests.envs import ACTIONS, ALGORITHMS, IMAGE, OBSERVATIONS, RandomEnv, hidden_state, small_kwargs

DOCS = ROOT / "docs"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DOCS.is_dir(), reason="a source distribution has no docs")]

KINDS: dict[str, tuple[str, spaces.Space]] = {
    "`Box`": ("MlpPolicy", OBSERVATIONS["MlpPolicy"]),
    "images": ("CnnPolicy", IMAGE),
    "`Dict`": ("MultiInputPolicy", OBSERVATIONS["MultiInputPolicy"]),
    "`Discrete`": ("MlpPolicy", spaces.Discrete(4)),
    "`MultiDiscrete`": ("MlpPolicy", spaces.MultiDiscrete([3, 2])),
    "`MultiBinary`": ("MlpPolicy", spaces.MultiBinary(3)),
}
GSDE = "`Box` with gSDE"


def row(name: str) -> list[str]:
    found = re.search(rf"^\| {name} \| (.+) \|$", (DOCS / "supported.md").read_text(), re.MULTILINE)
    assert found
    return found[1].split(", ")


def test_spaces_of_the_page_are_those_that_are_tried():
    assert row("observations") == list(KINDS)
    assert sorted(row("actions")) == sorted([GSDE, *(f"`{kind}`" for kind in ACTIONS)])


@pytest.mark.parametrize(("kind", "actions"), list(product(KINDS, [*ACTIONS, GSDE])))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_layers_learn(algorithm: Any, kind: str, actions: str):
    policy, observations = KINDS[kind]
    small = {"CnnPolicy": {"features_dim": 16}, "MultiInputPolicy": {"cnn_output_dim": 16}}.get(policy, {})
    kwargs = {**small_kwargs(algorithm), "policy_kwargs": {"features_extractor_kwargs": small, "net_arch": [8]}}
    if actions == GSDE:
        actions, kwargs["use_sde"] = "Box", True
    model = algorithm(policy, RandomEnv(observations, ACTIONS[actions]), **kwargs)
    before = hidden_state(model)
    model.learn(16)
    moved = [name for name, value in hidden_state(model).items() if not value.equal(before[name])]
    assert {name.split("/")[0] for name in moved} == {name.split("/")[0] for name in before}


def test_messages_of_troubleshooting_are_ours():
    source = "".join(path.read_text() for path in (ROOT / "sb3_forward").rglob("*.py"))
    told = re.sub(r'["\']\s+f?["\']', "", source)  # strings that go on in the next line
    table = (DOCS / "troubleshooting.md").read_text().split("## What it does not say")[0]
    messages = re.findall(r"^\| `(.+?)` \| ", table, re.MULTILINE)
    assert messages
    assert [message for message in messages if message not in told] == []
