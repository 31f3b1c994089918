"""Write the report of all results in a folder: ``report.md`` with its plots, and ``summary.csv``."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sb3_forward._cli import write_whole
from sb3_forward.compare.plots import plot_curves, plot_profiles, render
from sb3_forward.compare.results import Record, Results, shared_settings
from sb3_forward.compare.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    aggregate,
    by_environments,
    difference,
    normalise,
    summarise,
    table_of_runs,
)

# Variants that the forward class is compared with by score, apart from backpropagation
CONTROLS = ("frozen", "unguided", "plain")

HOW_TO_READ = f"""\
Brackets hold {CONFIDENCE:.0%} bootstrap intervals ({RESAMPLES} resamples of the seeds within each environment); there are none
where an environment has a single seed. IQM is the interquartile mean, the mean of all runs without the lowest and the highest
quarter (rounded down to whole runs).

- *final*: return of the final model, deterministic actions; its IQM, mean, standard deviation and worst seed
- *stochastic*: the same model with its actions sampled
- *late*: training return in the last tenth of the learning curve
- *drop*: how far the training return (moving average of three points) falls below its highest so far, at most
- *area*: training return averaged over the whole learning curve
- *wall s*: seconds of training, without evaluation

Columns without IQM in their name are means over seeds, where nothing else is said."""

HOW_TO_READ_SCORES = """\
Returns on a scale where random actions are 0 and the mean final return of bp is 1, both taken as exact. *score*: final return
of all runs of the environments together; the other columns are averaged over environments. *improvement*: probability that a
run is better than one of bp (0.5: no difference). *gap*: deterministic minus stochastic return. All variants of a table have
runs in all environments of the table; what has more is shown there with these alone."""


def write_report(results: Results) -> list[str]:
    """
    Write the tables and plots of all results.

    :param results: where they are, and where the report goes
    :return: its main lines
    """
    records = results.records()
    runs = table_of_runs([record["rows"] for record in records])
    summary = summarise(runs)
    write_whole(results.folder / "summary.csv", lambda file: summary.to_csv(file, index=False, lineterminator="\n"))

    lines: list[str] = []
    sections = ["# Comparison of forward training with backpropagation", _versions(records), HOW_TO_READ]
    for algo, of_algo in runs.groupby("algo"):
        said, parts = _all_envs(algo, of_algo)
        lines += said
        sections += [f"## {algo}", *parts]
        for env in of_algo["env"].drop_duplicates():
            table = _env_table(summary[(summary["algo"] == algo) & (summary["env"] == env)])
            sections += [f"### {env}", table, f"![Learning curves of {algo} in {env}]({_curves(algo, env)}.png)"]
    if commands := results.commands():
        sections += ["## Commands", "\n".join(["```bash", *commands, "```"])]
    sections += ["## Settings", _settings(records)]
    drawn = dict(pictures(records))
    for stale in results.folder.glob("profiles-*.p??"):
        if stale.stem not in drawn:
            stale.unlink()
    for name, figure in drawn.items():
        for kind in ("png", "pdf"):
            drawing = render(figure, kind)
            write_whole(results.folder / f"{name}.{kind}", lambda file, drawing=drawing: file.buffer.write(drawing))  # type: ignore[misc]
    write_whole(results.folder / "report.md", lambda file: file.write("\n\n".join(sections) + "\n"))
    return [*lines, f"report: {results.folder / 'report.md'}"]


def pictures(records: list[Record]) -> Iterator[tuple[str, Figure]]:
    """
    Draw the pictures that the report shows.

    :param records: of all runs
    :return: the name of each, without an ending, and the picture
    """
    rows = pd.DataFrame([row for record in records for row in record["rows"]])
    runs = table_of_runs([record["rows"] for record in records])
    for algo, of_algo in runs.groupby("algo"):
        normalised = normalise(of_algo)
        if not normalised.empty:
            yield _profiles(algo), plot_profiles(normalised)
        for env, of_env in of_algo.groupby("env"):
            of_both = rows[(rows["algo"] == algo) & (rows["env"] == env)]
            yield _curves(algo, env), plot_curves(of_both, list(of_env["variant"].drop_duplicates()))


def _profiles(algo: str) -> str:
    return f"profiles-{algo}"


def _curves(algo: str, env: str) -> str:
    return f"curves-{algo}-{env.replace('/', '-')}"


def _all_envs(algo: str, runs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Write the main lines and the section over all environments of one algorithm."""
    normalised = normalise(runs)
    left_out = [env for env in runs["env"].drop_duplicates() if env not in set(normalised["env"])]
    remarks = [f"{algo}, {env}: no scores, as bp {_without_scale(runs[runs['env'] == env])}" for env in left_out]
    if normalised.empty:
        return remarks, remarks
    lines, tables = [], []
    for envs, shown in by_environments(normalised):
        table = aggregate(shown)
        lines += [
            f"{algo}, {variant}: score {_estimate(values['score'])}, "
            f"{_count(values['runs'], 'run')} in {_count(len(envs), 'environment')}"
            for variant, values in table.items()
        ]
        tables += [f"In {', '.join(envs)}:", _scores_table(table)]
    differences = []
    for other in CONTROLS:
        advantage = difference(normalised, "forward", other)
        if advantage:
            differences.append(f"{algo}, forward - {other}: {_estimate(advantage, '+.3f')}")
    parts = ["### All environments", HOW_TO_READ_SCORES, *tables, "\n".join(f"- {line}" for line in differences), *remarks]
    lines += differences
    parts.append(f"![Share of runs above a score]({_profiles(algo)}.png)")
    return lines + remarks, [part for part in parts if part]


def _scores_table(table: dict[str, dict[str, Any]]) -> str:
    columns = ["runs", "score IQM", "improvement", "area", "area / bp", "std", "std / bp", "drop", "drop / bp", "gap"]
    body = (
        [variant, str(values["runs"]), _estimate(values["score"])]
        + ["-" if variant == "bp" else _estimate(values["improvement"])]
        + [_number(values[key], ".3f") for name in ("area", "std", "drop") for key in (name, f"{name}_ratio")]
        + [_number(values["gap"], "+.3f")]
        for variant, values in table.items()
    )
    return _table(["variant", *columns], body)


def _without_scale(runs: pd.DataFrame) -> str:
    return "is no better than random actions" if "bp" in set(runs["variant"]) else "was not run"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _env_table(summary: pd.DataFrame) -> str:
    columns = ["seeds", "final IQM", "mean", "std", "worst", "stochastic", "late", "drop", "area", "wall s"]
    keys = ["mean", "std", "worst", "stochastic", "late", "drop", "area", "wall_seconds"]
    body = (
        [row["variant"], str(row["seeds"]), _estimate(Estimate(row["final"], row["final_low"], row["final_high"]), "")]
        + [_number(row[key]) for key in keys]
        for row in summary.to_dict("records")
    )
    return _table(["variant", *columns], body)


def _table(header: list[str], body: Iterable[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))


def _number(value: float, form: str = "") -> str:
    """Format a number with four digits, or in a given form; NaN becomes a dash."""
    if np.isnan(value):
        return "-"
    return format(value, form or (".0f" if abs(value) >= 1000 else "#.4g"))


def _estimate(estimate: Estimate, form: str = ".3f") -> str:
    value = _number(estimate.value, form)
    return value if np.isnan(estimate.low) else f"{value} [{_number(estimate.low, form)}, {_number(estimate.high, form)}]"


def _versions(records: list[Record]) -> str:
    versions: dict[str, set[str]] = {}
    for record in records:
        for name, version in record["versions"].items():
            versions.setdefault(name, set()).add(version)
    return "Made with " + ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items()) + "."


def _settings(records: list[Record]) -> str:
    """List the settings of each variant, its seeds, and the commit of the package if it is known."""
    lines = []
    for shared in shared_settings(records):
        names = ", ".join(shared.pop(field) for field in ("env", "algo", "variant"))
        seeds = ", ".join(map(str, shared.pop("seeds")))
        commit = shared.pop("commit")
        del shared["versions"]
        timesteps = shared.pop("timesteps")
        lines.append(
            f"- {names}: {timesteps} steps, `{json.dumps(shared)}`, seeds {seeds}" + (f", commit {commit}" if commit else "")
        )
    return "\n".join(lines)
