"""What goes with a compilation: a line on standard error at the first one, and no search for garbage meanwhile."""

import gc
import sys
import threading

from numba.core import event

ANNOUNCEMENT = (
    "gradflow: compiling, once for this machine and version: 10 to 20 s of processor time before the first run, most"
    " where there are kinks; kept on disk"
)
PROCEDURE = "gradflow:compile"
"""Kind of event around the compilation of a procedure, which numba itself does not announce."""


class _Compilation(event.Listener):
    """Speaks at the first compilation of a function of gradflow, and holds the garbage collector during each.

    A function found in the cache is not compiled. A compilation makes objects by the million: to look through them
    again and again takes a seventh of its time.
    """

    def __init__(self):
        self.said, self._depth, self._collecting, self._lock = False, 0, False, threading.Lock()

    def on_start(self, event):
        """A compilation begins."""
        if not self.said and event.kind != PROCEDURE:
            function = event.data["dispatcher"].py_func
            if str(function.__module__).startswith("gradflow."):
                self.said = True
                print(ANNOUNCEMENT, file=sys.stderr)
        with self._lock:
            if self._depth == 0:
                self._collecting = gc.isenabled()
                gc.disable()
            self._depth += 1

    def on_end(self, event):
        """A compilation has ended."""
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and self._collecting:
                gc.enable()


_compilation = _Compilation()
for _kind in ("numba:compile", PROCEDURE):
    event.register(_kind, _compilation)
