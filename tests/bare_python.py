"""An interpreter with this environment's packages, but without sb3_forward and its start-up hook until a test adds them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOOK = ROOT / "sb3_forward_zoo.pth"
HOOK_MODULE = ROOT / "_sb3_forward_zoo.py"

# Without site (-S) no .pth file is read, so the packages' folders are handed over one by one. The first entry that -c makes is
# the current folder, which may be this repository
PREPARE = """
import os, runpy, site, sys
del sys.path[0]
sys.path.extend(os.environ["TEST_PACKAGES"].split(os.pathsep))
"""


def bare_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """
    :param code: what to run
    :param arguments: its ``sys.argv[1:]``
    :param environment: environment variables
    :return: the finished process
    """
    packages = [path for path in sys.path if os.path.isdir(path) and not os.path.isdir(os.path.join(path, "sb3_forward"))]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SB3_FORWARD_ZOO_HOOK")}
    env.update(TEST_PACKAGES=os.pathsep.join(packages), **environment)
    command = [sys.executable, "-S", "-c", PREPARE + code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
