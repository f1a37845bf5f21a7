"""One line on standard error where a cold cache makes the first call compile."""

import sys

from numba.core import event


class _Announcement(event.Listener):
    """Speaks at the first compilation of a function of gradflow; a function found in the cache is not compiled."""

    said = False

    def on_start(self, event):
        """A compilation begins."""
        function = event.data["dispatcher"].py_func
        if not self.said and str(function.__module__).startswith("gradflow."):
            self.said = True
            print("gradflow: compiling; it takes some seconds, once, and is then cached on disk", file=sys.stderr)

    def on_end(self, event):
        """A compilation has ended."""


event.register("numba:compile", _Announcement())
