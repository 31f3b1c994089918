"""Keep the old name of :mod:`sb3_forward.local.distances`, which has moved, until version 0.3."""

import warnings

from sb3_forward.local.distances import *  # noqa: F403

warnings.warn("sb3_forward.distances has moved to sb3_forward.local.distances.", DeprecationWarning, stacklevel=2)
