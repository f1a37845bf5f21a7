"""What happened at the kinks of a run: a table of events, the number sliding, the activation regions visited."""

import numpy as np

KINDS = ("start", "cross", "slide", "exit", "branch")
INSTANTS = 400

EVENT = np.dtype([("time", "f8"), ("kind", "U6"), ("layer", "i8"), ("neuron", "i8"), ("sample", "i8"), ("mask", "f8")])
"""Row of the table. Layers count from 1, as in ``W1``; neurons and samples from 0. kind: "start" (the run starts on the
kink), "cross" (mask: the new side, 0 or 1), "slide" (mask: sigma on arrival), "exit" (mask: the side on which sliding
ends), "branch" (mask: sigma where the flow stops being unique)."""


class Record:
    """Events of one run, in order."""

    def __init__(self, network):
        self._network = network
        self._rows = []
        self._regions = set()
        self.times = []

    def add(self, time, kind, kinks, masks) -> None:
        """One row per kink; a kink of several tied samples is named by the first of them."""
        for kink, mask in zip(np.atleast_1d(kinks), np.atleast_1d(masks), strict=True):
            self._rows.append(self.row(time, kind, kink, mask))

    def row(self, time, kind, kink, mask) -> tuple:
        """One row of the table."""
        network = self._network
        place = (network.layers[kink] + 1, network.neurons[kink], network.samples[kink])
        return (time, kind, *map(int, place), float(mask))

    def since(self, count) -> list[tuple]:
        """Rows from a number on."""
        return self._rows[count:]

    @property
    def names(self) -> set[int]:
        """Names of the activation regions visited."""
        return self._regions

    def visit(self, sigma, sliding) -> None:
        """Count the activation region, known by its masks and sliding kinks."""
        from gradflow.kinks.regions import region_name

        self._regions.add(region_name(sigma, sliding))

    def extend(self, times, instants, kinds, kinks, masks) -> None:
        """Rows of several events at some times: the number of the event, KINDS[kind], the kink and its mask."""
        network = self._network
        columns = (network.layers[kinks] + 1, network.neurons[kinks], network.samples[kinks], masks)
        rows = zip(instants.tolist(), kinds.tolist(), *(column.tolist() for column in columns), strict=True)
        self._rows.extend((times[instant], KINDS[kind], *place) for instant, kind, *place in rows)
        self.times.extend(times)

    def pass_through(self, regions) -> None:
        """Count activation regions, known by their names."""
        self._regions.update(regions.tolist())

    @property
    def table(self) -> np.ndarray:
        """Structured array of events, of type ``EVENT``."""
        return np.array(self._rows, dtype=EVENT)

    @property
    def number_sliding(self) -> tuple[np.ndarray, np.ndarray]:
        """Times at which the number of sliding kinks changes, and the number from then on."""
        table = self.table
        change = (table["kind"] == "slide").astype(int) - (table["kind"] == "exit")
        times, first = np.unique(table["time"], return_index=True)
        counts = np.add.reduceat(change, first).cumsum() if times.size else np.zeros(0, int)
        kept = np.diff(counts, prepend=0) != 0
        return times[kept], counts[kept]

    @property
    def regions(self) -> int:
        """Number of different activation regions visited."""
        return len(self._regions)

    def arrays(self) -> dict[str, np.ndarray]:
        """The record as arrays of numbers, for a snapshot."""
        table = self.table
        columns = {f"event_{name}": table[name].copy() for name in EVENT.names or () if name != "kind"}
        columns["event_kind"] = np.array([KINDS.index(kind) for kind in table["kind"]], dtype=np.int64)
        regions = np.array(sorted(self._regions), dtype=np.int64)
        return columns | {"event_instants": np.array(self.times[-INSTANTS:], dtype=float), "regions": regions}

    def load(self, arrays) -> None:
        """Become the record of a snapshot."""
        columns = [np.asarray(arrays[f"event_{name}"]).tolist() for name in EVENT.names or ()]
        kinds = (EVENT.names or ()).index("kind")
        columns[kinds] = [KINDS[int(code)] for code in columns[kinds]]
        self._rows = list(zip(*columns, strict=True))
        self._regions = set(map(int, arrays["regions"]))
        self.times = [float(time) for time in arrays["event_instants"]]
