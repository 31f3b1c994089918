"""Moved to :mod:`sb3_forward.local.distances`; this name goes with version 0.3."""

import warnings

from sb3_forward.local.distances import *  # noqa: F403

warnings.warn("sb3_forward.distances has moved to sb3_forward.local.distances.", DeprecationWarning, stacklevel=2)
