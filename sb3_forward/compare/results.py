"""The results on disk: one JSON file per run, and one CSV of them all. Every file appears whole or not at all."""

import csv
import json
from pathlib import Path
from typing import Any, TextIO

from sb3_forward._cli import UserError, write_whole
from sb3_forward.compare.plan import Run

FIELDS = ("env", "algo", "variant", "seed", "step", "return", "deterministic", "stochastic", "wall_seconds")

Row = dict[str, Any]


class Results:
    """
    The results in a folder.

    :param folder: where they are, created with the first one
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, run: Run) -> Path:
        """
        :param run: a run
        :return: where its result is, or will be
        """
        return self.folder / "runs" / run.env.replace("/", "-") / f"{run.algo}-{run.variant}-{run.seed}.json"

    def missing(self, plan: list[Run]) -> list[Run]:
        """
        :param plan: runs
        :return: those without a result
        :raises UserError: if another seed of the same variant, or this one, has a result with other settings
        """
        done: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for record in self.records():
            found = record["settings"]
            done.setdefault((found["env"], found["algo"], found["variant"]), []).append(found)
        missing = []
        for run in plan:
            seeds = done.get((run.env, run.algo, run.variant), [])
            for found in seeds:
                if differing := differences(found, settings(run)):
                    raise UserError(
                        f"{self.path(run._replace(seed=found['seed']))} was made with other settings "
                        f"({', '.join(differing)}): use another --output, or delete it"
                    )
            if run.seed not in [found["seed"] for found in seeds]:
                missing.append(run)
        return missing

    def save(self, run: Run, answer: dict[str, Any]) -> None:
        """
        Write the result of a run.

        :param run: the run
        :param answer: its rows and versions
        """
        record = {"settings": settings(run), **answer}
        write_whole(self.path(run), lambda file: json.dump(record, file, indent=1))

    def records(self) -> list[dict[str, Any]]:
        """
        :return: settings, rows and versions of every run in the folder, in order of environment, algorithm, variant and seed
        """
        records = [json.loads(path.read_text()) for path in self.folder.glob("runs/*/*.json")]
        return sorted(records, key=lambda record: [record["settings"][key] for key in ("env", "algo", "variant", "seed")])

    def commands(self) -> list[str]:
        """
        :return: the commands that the runs were made with, in order of first use
        """
        path = self.folder / "commands.txt"
        return path.read_text().splitlines() if path.exists() else []

    def add_command(self, command: str) -> None:
        """
        Remember a command, unless it was used before.

        :param command: the command
        """
        commands = self.commands()
        if command not in commands:
            text = "".join(f"{line}\n" for line in [*commands, command])
            write_whole(self.folder / "commands.txt", lambda file: file.write(text))

    def write_csv(self) -> None:
        """Write the rows of all runs into ``results.csv``; what was not measured is an empty cell."""
        rows = [row for record in self.records() for row in record["rows"]]

        def write(file: TextIO) -> None:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

        write_whole(self.folder / "results.csv", write)


def settings(run: Run) -> dict[str, Any]:
    """
    :param run: a run
    :return: its settings as they are read back from JSON
    """
    return json.loads(json.dumps(run._asdict()))


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """
    :param one: settings
    :param other: settings
    :return: names of what differs apart from the seed, hyperparameters each by its own
    """
    one, other = ({**given, **given["hyperparams"], "hyperparams": None, "seed": None} for given in (one, other))
    return [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
