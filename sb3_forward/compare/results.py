"""
Read and write the results on disk, in two forms.

A sweep writes one JSON file per run into ``runs/``. A report writes ``results.csv`` and ``settings.jsonl``, which hold all
runs and are the form to commit. Either form is enough, and a run in either counts as done. Every file appears whole or not at
all.
"""

import csv
import json
from pathlib import Path
from typing import Any, TextIO

from sb3_forward._cli import UserError, write_whole
from sb3_forward.compare.plan import Run

FIELDS = ("env", "algo", "variant", "seed", "step", "return", "deterministic", "stochastic", "wall_seconds")
IDENTITY = ("env", "algo", "variant", "seed")
WHOLE_NUMBERS = ("seed", "step")

Key = tuple[Any, ...]
Row = dict[str, Any]
# Settings, versions, commit and rows of one run
Record = dict[str, Any]


class Results:
    """
    The results in a folder.

    :param folder: where they are, created with the first one
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows_path = folder / "results.csv"
        self.settings_path = folder / "settings.jsonl"

    def path(self, run: Run) -> Path:
        """
        Return the file that a sweep writes the result of a run to.

        :param run: a run
        :return: the path of its file
        """
        return self.folder / "runs" / run.env.replace("/", "-") / f"{run.algo}-{run.variant}-{run.seed}.json"

    def missing(self, plan: list[Run]) -> list[Run]:
        """
        Select the runs without a result.

        :param plan: runs
        :return: those without a result
        :raises UserError: if another seed of the same variant, or this one, has a result with other settings
        """
        done: dict[Key, list[dict[str, Any]]] = {}
        for record in self.records():
            found = record["settings"]
            done.setdefault((found["env"], found["algo"], found["variant"]), []).append(found)
        missing = []
        for run in plan:
            seeds = done.get((run.env, run.algo, run.variant), [])
            for found in seeds:
                if differing := differences(found, settings(run)):
                    raise UserError(
                        f"{run._replace(seed=found['seed']).name} in {self.folder} was made with other settings "
                        f"({', '.join(differing)}): use another --output, or delete it from runs, {self.rows_path.name} "
                        f"and {self.settings_path.name}"
                    )
            if run.seed not in [found["seed"] for found in seeds]:
                missing.append(run)
        return missing

    def save(self, run: Run, answer: dict[str, Any]) -> None:
        """
        Write the result of a run.

        :param run: the run
        :param answer: its rows, versions and commit
        """
        record = {"settings": settings(run), **answer}
        write_whole(self.path(run), lambda file: json.dump(record, file, indent=1))

    def records(self) -> list[Record]:
        """
        Read the runs of both forms.

        :return: settings, versions, commit and rows of every run, in order of environment, algorithm, variant and seed
        :raises UserError: if a file cannot be read, or the forms contradict each other
        """
        rows, records = self._read_rows(), self._read_settings()
        tabled = rows.keys() & records.keys()
        for key in tabled:
            records[key]["rows"] = rows[key]
        unmatched = rows.keys() ^ records.keys()
        for path in self.folder.glob("runs/*/*.json"):
            # Results of earlier versions have no commit
            record = {"commit": None, **json.loads(path.read_text())}
            key = identity(record["settings"])
            if key in tabled and _as_text(record["rows"]) != _as_text(records[key]["rows"]):
                raise UserError(f"{path} is another run than that in {self.rows_path}: delete one of them")
            if key not in tabled:
                records[key] = record
            unmatched.discard(key)
        if unmatched:
            names = "; ".join(" ".join(map(str, key)) for key in sorted(unmatched))
            raise UserError(f"{self.rows_path} and {self.settings_path} must have the same runs, but one alone has {names}")
        return [records[key] for key in sorted(records)]

    def _read_rows(self) -> dict[Key, list[Row]]:
        rows: dict[Key, list[Row]] = {}
        if self.rows_path.exists():
            with self.rows_path.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    try:
                        row = {field: _value(field, line[field]) for field in FIELDS}
                    except (KeyError, ValueError) as error:
                        raise UserError(f"cannot read {self.rows_path}: {error}") from error
                    rows.setdefault(identity(row), []).append(row)
        return rows

    def _read_settings(self) -> dict[Key, Record]:
        """Read the records, without their rows."""
        records = {}
        if self.settings_path.exists():
            for line in self.settings_path.read_text(encoding="utf-8").splitlines():
                try:
                    shared = json.loads(line)
                    seeds, commit, versions = (shared.pop(key) for key in ("seeds", "commit", "versions"))
                except (KeyError, ValueError) as error:
                    raise UserError(f"cannot read {self.settings_path}: {error}") from error
                for seed in seeds:
                    record = {"settings": {**shared, "seed": seed}, "commit": commit, "versions": versions}
                    records[identity(record["settings"])] = record
        return records

    def write_tables(self) -> None:
        """Write all runs into ``results.csv``, where a cell is empty if nothing was measured, and ``settings.jsonl``."""
        records = self.records()

        def write_rows(file: TextIO) -> None:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for record in records for row in record["rows"])

        def write_settings(file: TextIO) -> None:
            file.writelines(json.dumps(shared) + "\n" for shared in shared_settings(records))

        write_whole(self.rows_path, write_rows)
        write_whole(self.settings_path, write_settings)

    def commands(self) -> list[str]:
        """
        Read the commands that the runs were made with.

        :return: the commands, in order of first use
        """
        path = self.folder / "commands.txt"
        return path.read_text().splitlines() if path.exists() else []

    def add_command(self, command: str) -> None:
        """
        Add a command to those of the runs, unless it is there.

        :param command: the command
        """
        commands = self.commands()
        if command not in commands:
            text = "".join(f"{line}\n" for line in [*commands, command])
            write_whole(self.folder / "commands.txt", lambda file: file.write(text))


def _value(field: str, cell: str) -> Any:
    """Convert a cell of ``results.csv``."""
    if field in WHOLE_NUMBERS:
        return int(cell)
    if field in IDENTITY:
        return cell
    return float(cell) if cell else None


def identity(row: dict[str, Any]) -> Key:
    """
    Return the fields that identify a run in a folder.

    :param row: settings of a run, or one of its rows
    :return: environment, algorithm, variant and seed
    """
    return tuple(row[field] for field in IDENTITY)


def settings(run: Run) -> dict[str, Any]:
    """
    Return the settings of a run in the form in which they are read back from JSON.

    :param run: a run
    :return: its settings
    """
    return json.loads(json.dumps(run._asdict()))


def shared_settings(records: list[Record]) -> list[dict[str, Any]]:
    """
    Group runs by the settings that they share.

    :param records: records of runs
    :return: settings, versions and commit of each variant with its seeds; several entries where its seeds differ in one of
        these
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        given = dict(record["settings"])
        seed = given.pop("seed")
        names = {field: given.pop(field) for field in ("env", "algo", "variant")}
        shared = {**names, "seeds": [], "commit": record["commit"], "versions": record["versions"], **given}
        found.setdefault(_as_text(shared), shared)["seeds"].append(seed)
    return list(found.values())


def _as_text(value: Any) -> str:
    """Write a value as text that is equal for equal values, whatever the order of their keys; NaN equals NaN."""
    return json.dumps(value, sort_keys=True)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """
    List the settings that differ, apart from the seed.

    :param one: settings
    :param other: settings
    :return: their names, each hyperparameter by its own
    """
    one, other = ({**given, **given["hyperparams"], "hyperparams": None, "seed": None} for given in (one, other))
    return [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
