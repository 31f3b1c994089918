"""Keep the old name of :mod:`sb3_forward.inspect.recording`, which has moved, until version 0.3."""

import warnings

from sb3_forward.inspect.recording import *  # noqa: F403

warnings.warn("sb3_forward.recording has moved to sb3_forward.inspect.recording.", DeprecationWarning, stacklevel=2)
