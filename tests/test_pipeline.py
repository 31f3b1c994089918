"""Layer-parallel training: the simulated schedules against what is known of them in closed form."""

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pipeline.blocks import learn, make_blocks
from benchmarks.pipeline.schedules import Task, bubble, gpipe, held, local, makespan, one_f_one_b, simulate
from sb3_forward.local.loss import Guidance, standardise

FORWARD, BACKWARD, LOCAL = 1.0, 2.0, 1.5
SECONDS = {"forward": FORWARD, "backward": BACKWARD, "step": 0.0, "local": LOCAL, "features": FORWARD, "heads": 7.0}

stages = st.integers(1, 6)
microbatches = st.integers(1, 9)
updates = st.integers(1, 3)


def equal_stages(task: Task, stage: int) -> float:
    return SECONDS[task.kind]


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b])
@given(stages, updates, microbatches)
def test_backpropagation_waits_in_every_update(schedule, stages: int, updates: int, microbatches: int) -> None:
    """Huang et al. 2019, Narayanan et al. 2021: the share of idle time is (S - 1) / (M + S - 1), however many updates."""
    spans = simulate(schedule(stages, updates, microbatches), equal_stages, transfer=0.0)
    assert makespan(spans) == pytest.approx(updates * (microbatches + stages - 1) * (FORWARD + BACKWARD))
    assert bubble(spans) == pytest.approx((stages - 1) / (microbatches + stages - 1))


@given(stages, updates, microbatches)
def test_1f1b_holds_no_more_microbatches_than_stages_above(stages: int, updates: int, microbatches: int) -> None:
    spans = simulate(one_f_one_b(stages, updates, microbatches), equal_stages, transfer=0.0)
    assert [held(spans, stage) for stage in range(stages)] == [min(stages - stage, microbatches) for stage in range(stages)]
    spans = simulate(gpipe(stages, updates, microbatches), equal_stages, transfer=0.0)
    assert [held(spans, stage) for stage in range(stages)] == [microbatches] * stages


@given(stages, st.integers(1, 20), st.floats(0, LOCAL))
def test_local_learning_fills_the_pipeline_once(stages: int, updates: int, transfer: float) -> None:
    """Transfers that take no longer than a step are hidden behind it, but for the first minibatch's."""
    spans = simulate(local(stages, updates), equal_stages, transfer)
    assert makespan(spans) == pytest.approx((updates + stages - 1) * LOCAL + (stages - 1) * transfer)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6), st.integers(1, 10), st.floats(0, 10))
def test_the_slowest_stage_or_link_sets_the_pace(durations: list[float], updates: int, transfer: float) -> None:
    """A flow shop of equal jobs: each machine once, and the slowest one for all others."""
    spans = simulate(local(len(durations), updates), lambda task, stage: durations[stage], transfer)
    links = len(durations) - 1
    slowest = max([*durations, transfer] if links else durations)
    assert makespan(spans) == pytest.approx(sum(durations) + links * transfer + (updates - 1) * slowest)


def test_heads_wait_for_all_features() -> None:
    spans = simulate(local(3, 4, feature_batches=2, heads=True), equal_stages, transfer=0.0)
    assert spans[-1].task.kind == "heads"
    # A faster task behind the slower ones of another kind catches up with them at every stage
    assert makespan(spans) == pytest.approx((4 + 3 - 1) * LOCAL + 2 * FORWARD + SECONDS["heads"])


def test_one_device_does_all_work_one_after_another() -> None:
    for programs in (gpipe(1, 2, 3), one_f_one_b(1, 2, 3), local(1, 6, 2, heads=True)):
        spans = simulate(programs, equal_stages, transfer=5.0)
        assert makespan(spans) == pytest.approx(sum(SECONDS[task.kind] for task in programs[0]))
        assert bubble(spans) == 0


def test_programs_that_wait_for_each_other() -> None:
    first, second = Task("forward", 0), Task("backward", 0)
    with pytest.raises(ValueError, match="wait for each other"):
        simulate([[second, first], [first, second]], equal_stages, transfer=0.0)


def test_a_pipeline_ends_in_the_weights_of_one_device() -> None:
    """Bit for bit: every block sees the minibatches in the same order, from lower blocks with the same weights."""
    minibatches = [th.randn(6, 4, generator=th.Generator().manual_seed(seed)) for seed in range(5)]
    guidance = standardise(Guidance.whole(th.randn(6, 1, generator=th.Generator().manual_seed(5))))

    def train(order: list[tuple[int, int]]) -> list[th.Tensor]:
        blocks = make_blocks(width=4, count=3)
        inputs = {(0, update): minibatch for update, minibatch in enumerate(minibatches)}
        for stage, update in order:
            inputs[stage + 1, update] = learn(blocks[stage], inputs[stage, update], guidance)
        return [parameter for block in blocks for parameter in block.parameters]

    one_device = [(stage, update) for update in range(5) for stage in range(3)]
    spans = simulate(local(stages=3, updates=5), equal_stages, transfer=0.1)
    pipeline = [(span.stage, span.task.update) for span in sorted(spans, key=lambda span: (span.start, -span.stage))]
    assert pipeline != one_device
    assert all(th.equal(one, other) for one, other in zip(train(one_device), train(pipeline), strict=True))
    # Which is not so whatever the order
    other_minibatches_first = [(stage, update) for update in (1, 0, 2, 3, 4) for stage in range(3)]
    assert not all(map(th.equal, train(one_device), train(other_minibatches_first)))
