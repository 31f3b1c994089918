"""Models as files of tensors: nothing is executed, nothing is lost, and nothing is half loaded."""

import base64
import copy
import importlib
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.tensors import LAYOUT, load_tensors, save_tensors
from tests.envs import ALGORITHMS, OBSERVATIONS, small_kwargs, small_model
from tests.test_save_load import assert_equal, distance, go_on


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", OBSERVATIONS)
def test_resumed_run_equals_uninterrupted_run(algorithm: Any, policy: str, tmp_path: Path) -> None:
    model = small_model(algorithm, policy).learn(32)
    save_tensors(model, tmp_path / "model")
    assert os.listdir(tmp_path) == ["model.safetensors"]
    other = small_model(algorithm, policy, seed=1).learn(16)
    load_tensors(other, tmp_path / "model")
    assert_equal(other.get_parameters(), model.get_parameters())
    # Neither past observations nor what is no part of the policy are in the file
    other.history, other.auxiliary = copy.deepcopy(model.history), copy.deepcopy(model.auxiliary)
    for running in (model, other):
        running.env = model.env
        go_on(running, 16)
    assert distance(other, model) < 1e-4


def test_untrained_and_stock_models(tmp_path: Path) -> None:
    """A model without optimizer state yet, and one that SB3's own class has trained."""
    untrained = small_model(ForwardPPO)
    save_tensors(untrained, tmp_path / "untrained.safetensors")
    theirs_kwargs = {key: value for key, value in small_kwargs(ForwardPPO).items() if not key.startswith("local")}
    theirs = PPO("MlpPolicy", untrained.get_env(), **theirs_kwargs).learn(16)
    save_tensors(theirs, tmp_path / "theirs")
    for source, name in ((untrained, "untrained"), (theirs, "theirs")):
        model = small_model(ForwardPPO, seed=1).learn(16)
        load_tensors(model, tmp_path / name)
        assert_equal(model.get_parameters(), source.get_parameters())
        model.learn(16)


def test_shared_extractor_is_stored_once(tmp_path: Path) -> None:
    model = small_model(ForwardPPO, "CnnPolicy")
    save_tensors(model, tmp_path / "model")
    stored = sum(tensor.numel() for tensor in safetensors.torch.load_file(tmp_path / "model.safetensors").values())
    assert stored == sum(parameter.numel() for parameter in model.policy.parameters())


# === What a file can do ===


class Payload:
    """Creates a folder when it is unpickled: anything else could stand here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_malicious_zip_is_executed_by_load_alone(tmp_path: Path) -> None:
    """What the documentation warns of; parameters alone can be taken from such a file."""
    model = small_model(ForwardPPO).learn(16)
    model.save(tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good.zip") as good, zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil:
        for name in good.namelist():
            content = good.read(name)
            if name == "data":
                data = json.loads(content)
                payload = base64.b64encode(pickle.dumps(Payload(tmp_path / "executed"))).decode()
                data["lr_schedule"] = {":type:": "function", ":serialized:": payload}
                content = json.dumps(data).encode()
            evil.writestr(name, content)

    other = small_model(ForwardPPO, seed=1)
    other.set_parameters(tmp_path / "evil.zip")
    assert_equal(other.get_parameters(), model.get_parameters())
    with pytest.raises(ValueError, match="no safetensors file"):
        load_tensors(other, tmp_path / "evil.zip")
    assert not (tmp_path / "executed").exists()
    ForwardPPO.load(tmp_path / "evil", device="cpu")
    assert (tmp_path / "executed").exists()


def test_a_malicious_pickle_of_parameters_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil, evil.open("policy.pth", "w") as file:
        th.save(Payload(tmp_path / "executed"), file)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        small_model(ForwardPPO).set_parameters(tmp_path / "evil.zip")
    assert not (tmp_path / "executed").exists()


def altered(source: Path, destination: Path, change: Any) -> Path:
    """A copy of a file of tensors after `change(tensors, metadata)`."""
    with safetensors.safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(source)
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, destination, metadata)
    return destination


def leave_out(tensors: dict[str, th.Tensor], metadata: dict[str, str]) -> None:
    layout = json.loads(metadata[LAYOUT])
    policy = dict(layout["dict"])["policy"]["dict"]
    policy[:] = [[key, value] for key, value in policy if key != "value_net.bias"]
    policy.append(["value_net.offset", {"tensor": "policy/value_net.bias"}])
    metadata[LAYOUT] = json.dumps(layout)


def resize(name: str, shape: tuple[int, ...]) -> Any:
    return lambda tensors, _: tensors.update({name: th.zeros(shape)})


def relabel(old: str, new: str) -> Any:
    def change(_: Any, metadata: dict[str, str]) -> None:
        assert old in metadata[LAYOUT]
        metadata[LAYOUT] = metadata[LAYOUT].replace(old, new)

    return change


CHANGES = {
    "missing and unknown names": (leave_out, "'value_net.bias' is missing; policy: 'value_net.offset' is not in the model"),
    "another shape": (
        resize("policy/value_net.weight", (1, 32)),
        r"'value_net.weight' has the shape \(1, 32\), the model needs \(1, 64\)",
    ),
    "not finite": (
        lambda tensors, _: tensors["policy/value_net.weight"].fill_(float("nan")),
        "'value_net.weight' is not finite",
    ),
    "state of another shape": (
        resize("policy.optimizer/state/1/exp_avg", (7,)),
        r"exp_avg of parameter 1 has the shape \(7,\)",
    ),
    "state of an unknown parameter": (relabel('[1, {"dict"', '[99, {"dict"'), "state of an unknown parameter 99"),
    "another optimizer": (relabel('"betas"', '"alphas"'), "made by another class than Adam, without its betas"),
    "no layout": (lambda _, metadata: metadata.pop(LAYOUT), "not written by `save_tensors`"),
    "no tensor of this name": (lambda tensors, _: tensors.pop("policy/value_net.bias"), "is damaged"),
    "no names of parameters": (lambda _, metadata: metadata.update({LAYOUT: "3"}), "'policy', 'policy.optimizer' missing"),
    "deep nesting": (lambda _, metadata: metadata.update({LAYOUT: "[" * 100_000}), "is damaged"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    """The error says what does not fit, and the model is as it was."""
    change, message = CHANGES[case]
    save_tensors(small_model(ForwardPPO).learn(16), tmp_path / "saved")
    path = altered(tmp_path / "saved.safetensors", tmp_path / "altered.safetensors", change)
    model = small_model(ForwardPPO, seed=1).learn(16)
    before = copy.deepcopy(model.get_parameters())
    with pytest.raises(ValueError, match=message):
        load_tensors(model, path)
    assert_equal(model.get_parameters(), before)


def test_other_networks_and_files(tmp_path: Path) -> None:
    save_tensors(small_model(ForwardPPO).learn(16), tmp_path / "saved")
    with pytest.raises(ValueError, match="Build the model with the same algorithm, spaces, policy and `policy_kwargs`"):
        load_tensors(small_model(ForwardPPO, policy_kwargs={"net_arch": [8]}), tmp_path / "saved")
    with pytest.raises(ValueError, match="made by another class than RMSprop"):
        load_tensors(small_model(ForwardA2C), tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_tensors(small_model(ForwardPPO), tmp_path / "missing")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("tensors") / "saved.safetensors"
    model = small_model(ForwardPPO, policy_kwargs={"net_arch": [4]}).learn(16)
    save_tensors(model, path)
    return path, model


@given(data=st.data())
def test_damaged_bytes(saved: tuple[Path, Any], data: st.DataObject) -> None:
    """Whatever bytes are changed: either it is refused and the model is as it was, or the model has finite parameters."""
    path, model = saved
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for position in data.draw(st.lists(st.integers(0, header) | st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[position] ^= data.draw(st.integers(1, 255))
    damaged = path.with_name("damaged.safetensors")
    damaged.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    before = copy.deepcopy(model.get_parameters())
    try:
        load_tensors(model, damaged)
    except ValueError:
        assert_equal(model.get_parameters(), before)
    else:
        assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
        model.set_parameters(before)


def test_without_safetensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "sb3_forward.tensors")
    with pytest.raises(ImportError, match=r"pip install 'sb3-forward\[safetensors\]'"):
        importlib.import_module("sb3_forward.tensors")
