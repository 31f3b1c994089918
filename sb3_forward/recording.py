"""Moved to :mod:`sb3_forward.inspect.recording`; this name goes with version 0.3."""

import warnings

from sb3_forward.inspect.recording import *  # noqa: F403

warnings.warn("sb3_forward.recording has moved to sb3_forward.inspect.recording.", DeprecationWarning, stacklevel=2)
