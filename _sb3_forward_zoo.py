"""
Waits for the first import of the RL Zoo, and then registers the forward algorithms with it.

``sb3_forward_zoo.pth`` runs :func:`install` at the start of every Python process of the environment, because the Zoo has no
plugin mechanism of its own. So nothing here may import anything (even ``typing`` costs milliseconds), print or raise, until
somebody imports ``rl_zoo3``. ``SB3_FORWARD_ZOO_HOOK=0`` in the environment switches the hook off.

This file lies beside the package and not in it. The path is not complete at start-up: the folder that the program starts in
comes first later, and a copy of the package there, as in a checkout, must win over the installed one.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class ZooWatcher:
    """A finder that finds nothing itself: it only notices that ``rl_zoo3`` is about to be imported."""

    def __init__(self) -> None:
        self.searching = False

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """
        Let the other finders look for ``rl_zoo3``; once they have it, register and step aside.

        :param fullname: name of the module that is being imported
        :param path: unused, a top-level package has none
        :param target: unused, given on a reload only
        :return: what the other finders have found, None for every other module
        """
        if fullname != "rl_zoo3" or self.searching:
            return None
        from importlib.util import find_spec

        self.searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self.searching = False
        # A process that only probes for a missing Zoo keeps waiting: its path may grow later
        if spec is not None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            register_or_say_why()
        # Not None: the list that the import system is walking over has just changed under its feet
        return spec


def install() -> None:
    """Start waiting, or register at once in a process that already has the Zoo. A second call does nothing."""
    if "rl_zoo3" in sys.modules:
        register_or_say_why()
    elif not any(isinstance(finder, ZooWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, ZooWatcher())


def register_or_say_why() -> None:
    """Register; if anything is broken, the stock Zoo goes on working and one line on stderr tells what is missing."""
    try:
        from sb3_forward.zoo.registration import register

        register(say_why)
    except Exception as error:
        say_why(error)


def say_why(error: Exception) -> None:
    """
    Say on stderr, in one line, why the RL Zoo goes without the forward algorithms.

    :param error: what keeps them out
    """
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"sb3-forward: forward_a2c and forward_ppo are not available in the RL Zoo ({reason})", file=sys.stderr)
