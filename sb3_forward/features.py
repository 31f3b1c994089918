"""Moved to :mod:`sb3_forward.inspect.metrics`; this name goes with version 0.3."""

import warnings

from sb3_forward.inspect.metrics import *  # noqa: F403

warnings.warn("sb3_forward.features has moved to sb3_forward.inspect.metrics.", DeprecationWarning, stacklevel=2)
