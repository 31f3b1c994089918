"""How the start-up hook tells that something is broken: it must neither raise nor say more than a line."""

import sys


def say_why(error: Exception) -> None:
    """
    Say on stderr why the RL Zoo goes without the forward algorithms.

    :param error: what keeps them out
    """
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"sb3-forward: forward_a2c and forward_ppo are not available in the RL Zoo ({reason})", file=sys.stderr)
