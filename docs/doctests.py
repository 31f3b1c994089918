"""What mkdocstrings cannot do by itself: examples in docstrings of Sphinx's style as code, not as a quotation."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Doctests(Extension):
    """Puts a fence around every example."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """
        :param obj: a module, class, function or attribute
        :param kwargs: not used
        """
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
