"""Compiled evaluations, steps and events of the plain flow, on the objects of a kinked run."""

from dataclasses import replace

import numpy as np

from gradflow.kinks.arrive import Place
from gradflow.kinks.look import WRONG, Fresh, Step
from gradflow.kinks.masked import ROUNDING
from gradflow.kinks.slide import RANK, Point, surface
from gradflow.steppers.kinked_rest import LOOK, REACH

MOST_SLIDING = 1024
"""More sliding kinks than this are left to the interpreted path."""

MOST_INSTANTS = 256
"""Events after which compiled code comes back, so that the record is written."""

HISTORY = 200
"""Earlier events whose times are known, to tell a stall."""

ROUNDED = 1.01
"""Factor that keeps rounding from hiding a run near rest."""

KINDS = ("", "cross", "slide", "exit")


class Compiled:
    """The compiled path of :mod:`gradflow.kinks.chain` with the memory of one run.

    Nothing comes back where the normals of the sliding kinks are dependent.
    """

    def __init__(self, network, pair, powers, lookout, rtol, atol):
        from gradflow.kinks import chain, desk

        self._chain, self._network, self._pair, self._powers = chain, network, pair, powers
        self._desk, self._walls = np.zeros(1, desk.DESK), np.zeros(4, desk.WALL)
        self._arrays: dict[str, np.ndarray] = {}
        self._known: np.ndarray | None = None
        self._capacity = min(network.size, MOST_SLIDING)
        self._describe_network(network)
        self._describe_method(pair, powers, lookout, rtol, atol)
        self._make_room(pair, len(powers))
        length = int(self._desk["length"][0]) if network.flat else 0
        self._wall_arrays = [self._make_wall(wall, length) for wall in self._walls]

    def _set(self, **numbers):
        """Write numbers into the record of the run."""
        for name, number in numbers.items():
            self._desk[name] = number

    def _point(self, **arrays):
        """Write addresses of arrays into the record of the run, and keep the arrays."""
        for name, array in arrays.items():
            self._arrays[name] = array
            self._desk[name] = array.ctypes.data

    def _describe_network(self, network):
        layers = network.kinked_layers
        upper = [int(network.kinks_at[l]) for l in layers if l > 0]
        starts, tied, factor = network.tied
        self._set(
            size=network.problem.size,
            units=network.size,
            samples=network.n,
            width=network.widths[1],
            inputs=network.widths[0],
            length=network.widths[0] + network.bias,
            bias=network.bias,
            flat=network.flat,
            first=network.kinks_at[1] if layers[0] == 0 else 0,
            begin=upper[0] if upper else network.size,
            last=layers[-1],
            ties=tied.size - network.size,
            input_scale=np.abs(network.x).max(),
            rank=RANK,
            rounding=ROUNDING,
            wrong=WRONG,
            capacity=self._capacity,
        )
        integers = {
            "layers": network.layers,
            "of_sample": network.samples,
            "of_neuron": network.neurons,
            "live": network.live,
            "tied_at": starts,
            "tied": tied,
        }
        self._point(**{name: np.ascontiguousarray(array, dtype=np.int64) for name, array in integers.items()})
        self._point(layout=network.layout, numbers=network.numbers, low=network.low, gap=network.gap, factor=factor)
        self._point(lengths=np.linalg.norm(network.extended_samples(np.arange(network.n)), axis=1))

    def _describe_method(self, pair, powers, lookout, rtol, atol):
        E = np.zeros((len(pair.E), pair.A.shape[0]))
        for target, row in zip(E, pair.E, strict=True):
            target[: row.size] = row
        nodes, *matrices = lookout.proof
        from_powers, from_shorter, from_values = (np.ascontiguousarray(matrix) for matrix in matrices)
        size = self._network.problem.size
        self._set(
            A_step=pair.A.shape[1],
            estimates=len(E),
            degree=len(powers),
            rows=pair.A.shape[0],
            stages=pair.stages,
            nodes_count=nodes.size,
            rtol=rtol,
            order=pair.order,
        )
        self._point(
            A=np.ascontiguousarray(pair.A),
            C=np.ascontiguousarray(pair.C),
            E=E,
            powers=np.ascontiguousarray(powers),
            nodes=nodes,
            from_powers=from_powers,
            from_shorter=from_shorter,
            from_values=from_values,
            atol=np.broadcast_to(np.asarray(atol, dtype=float), size).copy(),
            places=np.arange(max(powers.shape), dtype=np.int64),
            x_powers=np.empty(len(powers)),
        )

    def _make_room(self, pair, degree):
        size, units, rows, most = self._network.problem.size, self._network.size, pair.A.shape[0], self._capacity
        rooms = [
            ((size,), "theta spot theta_before event_velocity along_velocity along_theta"),
            (
                (units,),
                "z sigma sigma_before next_sigma signs slack fresh_speed fresh_rest event_speed event_rest leeway"
                " watched_sign watched_slack watched_growth",
            ),
            ((4, units), "spare_units event_units"),
            ((2, most), "pulls event_pulls along_pulls"),
            ((most,), "mask_scale"),
            ((2, size), "ends bends"),
            ((2, rows, size), "all_stages"),
            ((rows, 2, most), "stage_pulls"),
            ((degree, size), "coefficients"),
            ((HISTORY + MOST_INSTANTS,), "instants"),
        ]
        for shape, names in rooms:
            self._point(**{name: np.zeros(shape) for name in names.split()})
        names = "fresh dark kinks_before culprits sides event_fresh event_dark names status calm stay watched"
        self._point(**{name: np.zeros(units, np.int64) for name in names.split()})
        records = units + 4 * MOST_INSTANTS
        self._point(**{name: np.zeros(records, np.int64) for name in ("kinds", "kinks", "row_instants")})
        self._point(masks=np.zeros(records), regions=np.zeros(MOST_INSTANTS, np.int64))
        self._set(most_rows=records, most_instants=MOST_INSTANTS, look_every=LOOK, reach=ROUNDED * REACH)

    def _make_wall(self, wall, length):
        most = self._capacity
        arrays = {name: np.zeros(most, np.int64) for name in ("kinks", "held", "order", "owners")}
        arrays |= {name: np.empty((most, length)) for name in ("basis", "triangle")}
        for name, array in arrays.items():
            wall[name] = array.ctypes.data
        return {array.ctypes.data: array for array in arrays.values()}

    def _wall_array(self, name) -> np.ndarray:
        """Array of the present wall; walls change places."""
        address = int(self._walls[name][0])
        return next(arrays[address] for arrays in self._wall_arrays if address in arrays)

    def _take_wall(self, kinks, joint) -> bool:
        """Make the sliding kinks the present wall; False if they are too many or dependent."""
        if kinks.size > self._capacity:
            return False
        if self._known is None or not np.array_equal(kinks, self._known):
            self._known = None
            self._wall_array("kinks")[: kinks.size] = kinks
            self._walls["count"][0] = kinks.size
            self._walls["stacked"][0] = kinks.size > 0 and joint.stacked
            if self._network.flat and not self._chain.build(self._desk, self._walls):
                return False
            self._known = kinks.copy()
        return True

    def point(self, theta, sigma, joint) -> Point | None:
        """Sliding velocity at theta."""
        if not self._take_wall(np.zeros(0, np.int64) if joint is None else joint.kinks, joint):
            return None
        m, units, velocity = int(self._walls["count"][0]), np.empty((4, sigma.size)), np.empty(theta.size)
        pulls = np.empty((2, self._capacity))
        addresses = (array.ctypes.data for array in (theta, sigma, units, velocity, pulls))
        if not self._chain.evaluate(self._desk, self._walls, *addresses):
            return None
        return Point(float(self._desk["found"][0]), velocity, units[0], *pulls[:, :m])

    def step(self, run, length):
        """One step: dense output, state, points of the stages, error; None where that is not possible."""
        if not self._load(run):
            return None
        self._set(h=length)
        if not self._chain.try_step(self._desk, self._walls):
            return None
        run.counts["gradients"] += self._pair.A.shape[0] - 1
        return self._trial(run.place.surface)

    def follow(self, run, limits):
        """Go on from the place of the run; why the chain has ended, and the step in doubt, if any.

        `limits` are the end time, save times with their states, a loss, and numbers of gradients, accepted steps and
        events.
        """
        if not self._load(run):
            return self._chain.ALONE, None
        t_end, (times, states), loss_below, gradients, accepted, events = limits
        self._set(t_end=t_end, loss_below=loss_below, most_gradients=gradients, most_accepted=accepted)
        self._set(most_instants=min(events, MOST_INSTANTS), save_count=times.size)
        self._set(save_next=np.searchsorted(times, run.t, "right"))
        self._point(save_times=times, saved=states)
        reason = self._chain.follow(self._desk, self._walls)
        self._unload(run)
        return reason, self._trial(run.place.surface) if reason == self._chain.TRIED else None

    def _load(self, run) -> bool:
        """Write the place of a run into the memory; False if its sliding kinks do not fit."""
        place, here, arrays = run.place, run.place.here, self._arrays
        if not self._take_wall(place.sliding, place.surface):
            return False
        m = place.sliding.size
        arrays["theta"][:], arrays["sigma"][:], arrays["z"][:] = place.theta, place.sigma, here.z
        self._wall_array("held")[:m] = place.held
        arrays["pulls"][0, :m], arrays["pulls"][1, :m] = here.multipliers, here.attraction
        arrays["all_stages"][0, 0] = here.velocity
        count, dark = place.fresh.kinks.size, place.shadowed.size
        arrays["fresh"][:count], arrays["dark"][:dark] = place.fresh.kinks, place.shadowed
        arrays["fresh_speed"][:count], arrays["fresh_rest"][:count] = place.fresh.speed, place.fresh.rest
        times = run.record.times[-HISTORY:]
        arrays["instants"][: len(times)] = times
        self._set(
            t=run.t,
            h=run.h,
            error_before=run.error_before,
            value=here.value,
            unshortened=run.unshortened,
            shortened=run.shortened,
            gradients=run.counts["gradients"],
            accepted=run.counts["accepted"],
            rejected=run.counts["rejected"],
            fresh_count=count,
            dark_count=dark,
            old_instants=len(times),
            look=run.counts["accepted"] // LOOK * LOOK + LOOK,
            since=run.since,
            patience=run.patience,
            least=run.least_ahead,
            own=0,
            signs_known=0,
            instant_count=0,
            row_count=0,
            event_last=0,
        )
        return True

    def _unload(self, run):
        """Write the memory back into the run: place, last step, control, counts and record."""
        now, arrays, before = self._desk[0], self._arrays, run.counts["accepted"]
        run.counts |= {name: int(now[name]) for name in ("gradients", "accepted", "rejected")}
        run.h, run.error_before = float(now["h"]), float(now["error_before"])
        run.shortened, run.unshortened = int(now["shortened"]), float(now["unshortened"])
        moved, events = run.counts["accepted"] > before, int(now["instant_count"])
        if not moved and not events:
            return
        old, run.t = run.place, float(now["t"])
        m, sigma = int(self._walls["count"][0]), old.sigma
        sliding, joint = old.sliding, old.surface
        own, start = int(now["own"]), int(now["old_instants"])
        if events:
            run.since = int(now["since"])
            sigma, sliding = arrays["sigma"].copy(), self._wall_array("kinks")[:m].copy()
            self._known = sliding
            if not np.array_equal(sliding, old.sliding):
                joint = surface(self._network, sliding) if m else None
            times = arrays["instants"][start : start + events].tolist()
            run.record.extend(
                times, *(arrays[name][: now["row_count"]] for name in ("row_instants", "kinds", "kinks", "masks"))
            )
            run.record.pass_through(arrays["regions"][:events])
        held, theta = self._wall_array("held")[:m].astype(bool), arrays["theta"].copy()
        pulls, fresh, dark = arrays["pulls"][:, :m].copy(), int(now["fresh_count"]), int(now["dark_count"])
        here = Point(float(now["value"]), arrays["all_stages"][own, 0].copy(), arrays["z"].copy(), *pulls)
        left = Fresh(*(arrays[name][:fresh].copy() for name in ("fresh", "fresh_speed", "fresh_rest")))
        run.place = Place(theta, sigma, sliding, held, here, joint, left, arrays["dark"][:dark].copy())
        if moved:
            self._unload_step(run, now, old if not events else run.place)

    def _unload_step(self, run, now, place):
        """Write the dense output of the last step, and the pattern under which it was taken."""
        own, arrays = 1 - int(now["own"]), self._arrays
        run.place_before = place
        if now["event_last"]:
            sliding = arrays["kinks_before"][: now["count_before"]].copy()
            run.place_before = replace(place, sigma=arrays["sigma_before"].copy(), sliding=sliding, surface=None)
        run.theta_before, run.t_before = arrays["theta_before"].copy(), float(now["t_before"])
        slid = run.place_before.sliding.size > 0 and not self._network.flat
        bend = arrays["bends"][own].copy() if slid else None
        length = float(now["length_before"])
        run.step = Step(run.t_before, run.theta_before, length, arrays["all_stages"][own].copy(), self._powers, bend)

    def _trial(self, joint):
        """The step tried: dense output, state, points at the stages (all where kinks slide, else the end), error."""
        now, arrays, m, last = self._desk[0], self._arrays, int(self._walls["count"][0]), self._pair.stages
        own = int(now["own"])
        stages, z = arrays["all_stages"][own].copy(), arrays["spare_units"][0].copy()
        bend = arrays["bends"][own].copy() if joint is not None and joint.curved else None
        step = Step(float(now["t"]), arrays["theta"].copy(), float(now["h"]), stages, self._powers, bend)
        pulls, value = arrays["stage_pulls"][:, :, :m].copy(), float(now["found"])
        points = [Point(value, stages[j], z, *pulls[j]) for j in range(0 if m else last, last + 1)]
        return step, arrays["ends"][own].copy(), points, float(now["error"])
