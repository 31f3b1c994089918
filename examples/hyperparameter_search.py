"""Two processes search hyperparameters on one Optuna journal: python examples/hyperparameter_search.py [timesteps]"""

import subprocess
import sys
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

STUDY = "forward_ppo_cartpole"


def main(timesteps: int = 5_000, folder: str = "runs/hyperparameter_search", trials: int = 2) -> optuna.Study:
    """
    Start two runs of the Zoo's search, as one would on two machines with a shared folder, and read what they found.

    :param timesteps: environment steps of a trial
    :param folder: where all is written; the study of an earlier call goes on
    :param trials: of each process
    :return: the study
    """
    journal = str(Path(folder) / "journal.log")  # the Zoo takes a storage that ends so as a journal
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "forward_ppo", "--env", "CartPole-v1", "-optimize"]
    command += ["--storage", journal, "--study-name", STUDY, "--n-trials", str(trials), "-n", str(timesteps)]
    # One environment: the longest rollouts that are tried, of 2048 steps, then fit into a short trial
    command += ["-f", folder, "--n-evaluations", "1", "--no-optim-plots", "--num-threads", "1", "-params", "n_envs:1"]
    processes = [subprocess.Popen([*command, "--seed", str(seed)]) for seed in range(2)]
    if any([process.wait() for process in processes]):  # a list: waits for both
        raise RuntimeError("A search has failed: its output is above.")

    study = optuna.load_study(study_name=STUDY, storage=JournalStorage(JournalFileBackend(journal)))
    print(f"{len(study.trials)} trials, best mean return: {study.best_value:.0f}, with")
    for name, value in study.best_params.items():
        print(f"  {name}: {value}")
    print(f"$ python {' '.join(command[1:7])} --storage {journal} --study-name {STUDY} --trial-id {study.best_trial.number}")
    return study


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
