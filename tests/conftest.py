"""
One thread, as small networks want it; and how many examples the property tests try: the same few in every run of the suite,
and as many as you like by hand.

    python -m pytest tests/test_properties.py --hypothesis-profile=long
"""

import torch as th
from hypothesis import settings

th.set_num_threads(1)
settings.register_profile("suite", derandomize=True, deadline=None, max_examples=15)
settings.register_profile("long", deadline=None, max_examples=300, print_blob=True)
settings.load_profile("suite")
