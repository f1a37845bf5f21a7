"""Many runs of a plain flow as one batch of torch tensors: each with its own time, step, counts and status.

The step control is that of :mod:`gradflow.steppers.adaptive`, on vectors with one entry per run, on the device of the
problem. Runs that have ended leave the batch. The host learns once per step how many those are and how many states are
to be saved; nothing else leaves the device before the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gradflow.kernels.torch_autograd import TorchObjective
from gradflow.lanes.memory import KEPT, NOW, START, Results, new_results
from gradflow.status import Status
from gradflow.steppers.saving import UNLIMITED
from gradflow.steppers.tableaux import STIFF_LIMITS
from gradflow.steppers.tableaux import pair as pair_of

NUMBERS = ("t", "h", "error_before", "value", "rho", "t_before", "length", "h_tried", "held_for")
COUNTERS = ("accepted", "rejected", "gradients", "stiff", "calm")
GO_ON, STIFF_STEPS, CALM_STEPS = -1, 15, 6
MOST_NUMBERS = 2**27
"""Numbers that the stages of all runs of a batch may hold together."""


def run_batched(objective: TorchObjective, decay: float, starts: np.ndarray, *arguments, **options) -> Results:
    """Take all runs to their ends, as :func:`gradflow.lanes.ensemble.run_ensemble` does with its arguments.

    Parameters
    ----------
    objective : TorchObjective
        Whose device does the work.
    decay : float
        Factor of |theta|^2.
    starts : ndarray (runs, P)
        Start states.
    *arguments, **options
        As there, without `threads`.

    Returns
    -------
    Results
    """
    runs, size = starts.shape
    save_at = np.array(options.pop("save_at", ()), dtype=np.float64)
    atol = np.broadcast_to(np.asarray(options.pop("atol"), dtype=np.float64), (runs,))
    look = options.pop("look", lambda ended: None)
    results = new_results(runs, size, save_at.size)
    group = max(1, MOST_NUMBERS // (20 * size))
    for first in range(0, runs, group):
        part = slice(first, min(first + group, runs))
        batch = Ensemble(objective, decay, save_at, *arguments, **options)
        ended = batch.run(starts[part], atol[part], lambda done, first=first: look(first + done))
        batch.write(results, part)
        if ended:
            break
    return results


class Ensemble:
    """One batch of runs, and what is known of those that have ended."""

    def __init__(
        self,
        objective,
        decay,
        save_at,
        t_start,
        t_end,
        *,
        rtol,
        pair="dop853",
        max_gradients=UNLIMITED,
        loss_below=-math.inf,
        stiff_gradients=math.inf,
    ):
        self.objective, self.decay = objective, decay
        self.pair, self.rtol, self.t_start, self.t_end = pair_of(pair), rtol, t_start, t_end
        self.limits = (max_gradients, loss_below, STIFF_LIMITS[pair], stiff_gradients)
        self.A, self.E, self.G = (self._tensor(rows) for rows in (self.pair.A, self.pair.E, self.pair.G))
        self.times = self._tensor(np.append(save_at, math.inf))

    def _tensor(self, values) -> torch.Tensor:
        return torch.tensor(np.asarray(values), dtype=torch.float64, device=self.objective.device)

    def velocity(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Objectives (runs,) and velocities (runs, P)."""
        values, gradients = self.objective.batch(theta)
        if self.decay:
            values = values + self.decay * (theta * theta).sum(1)
            gradients = gradients + 2.0 * self.decay * theta
        return values, -gradients

    @torch.no_grad()
    def run(self, starts: np.ndarray, atol: np.ndarray, look: Callable[[int], Status | None]) -> bool:
        """Take a batch to its end; whether it was told to end early."""
        self.begin(starts, atol)
        done = 0
        while done < len(starts):
            verdict = look(done)
            if verdict is not None:
                status = torch.full_like(self.now["run"], int(verdict))
                self.finish(torch.arange(status.numel(), device=status.device), status)
                return True
            status, reached = self.step()
            ended, saves = torch.stack([(status != GO_ON).sum(), reached.max()]).tolist()
            if saves:
                self.save(saves)
            self.move()
            if ended:
                order = torch.argsort((status == GO_ON).long(), stable=True)
                self.finish(order[:ended], status)
                self.now = {name: vector[order[ended:]] for name, vector in self.now.items()}
                shape = (self.K.shape[0], *self.now["y"].shape)
                self.K = self.K.flatten()[: math.prod(shape)].view(shape)
            done += ended
        return False

    def begin(self, starts, atol) -> None:
        """First gradients and Hairer's first steps."""
        y, atol = self._tensor(starts), self._tensor(atol).clamp(min=1e-300)
        zero, count = torch.zeros_like(y[:, 0]), torch.zeros_like(y[:, 0], dtype=torch.long)
        value, velocity = self.velocity(y)
        self._lay_out(y, velocity, value, self._first_steps(y, velocity, atol), atol, zero, count)

    def _first_steps(self, y, velocity, atol) -> torch.Tensor:
        """Hairer's first steps; NaN or infinite for a start that is not finite."""
        scale = atol[:, None] + self.rtol * y.abs()
        length, speed = self._norm(y / scale), self._norm(velocity / scale)
        h = torch.where((length < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * length / speed)
        bend = self._norm((self.velocity(y + h[:, None] * velocity)[1] - velocity) / scale) / h
        steep = torch.maximum(speed, bend)
        guess = torch.where(steep > 1e-15, (0.01 / steep) ** (1.0 / self.pair.order), (1e-3 * h).clamp(min=1e-6))
        h = torch.where(bend < math.inf, torch.minimum(100.0 * h, guess), h)
        return torch.where((length < math.inf) & (speed < math.inf), h, math.nan)

    def _lay_out(self, y, velocity, value, h, atol, zero, count) -> None:
        """What is known of every run at its start."""
        runs = len(y)
        numbers = {name: zero.clone() for name in NUMBERS} | {name: count.clone() for name in COUNTERS}
        numbers |= {"t": zero + self.t_start, "t_before": zero + self.t_start, "h": h, "h_tried": h.clone()}
        numbers |= {"value": value, "error_before": zero + 1e-4, "held_for": zero + math.nan, "gradients": count + 2}
        self.kept_names = tuple(numbers)
        self.now: dict[str, torch.Tensor] = numbers | {"y": y, "f": velocity, "atol": atol, "saves": count.clone()}
        self.now["run"] = torch.arange(runs, device=y.device)
        self.now |= {f"kept {name}": self.now[name].clone() for name in (*self.kept_names, "y", "f")}
        self.start = {name: self.now[name].clone() for name in (*self.kept_names, "f")}
        self.end = {name: vector.clone() for name, vector in self.now.items()}
        self.ended = torch.full((runs,), int(Status.PAUSED), device=y.device)
        self.saved = y.new_empty((runs, self.times.numel(), y.shape[1]))
        at_start = self.times[:-1] <= self.t_start
        self.saved[:, :-1] = torch.where(at_start[:, None], y[:, None], 0.0)
        self.now["saves"] += at_start.sum()
        self.K = y.new_empty((self.A.shape[0], *y.shape))
        self.now["bad"] = ~((value.abs() < math.inf) & (h < math.inf))

    @staticmethod
    def _norm(vectors: torch.Tensor) -> torch.Tensor:
        """Root mean square of each row."""
        return (vectors * vectors).mean(1).sqrt()

    def stages(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Velocities at stages first to last - 1; the last argument and the objectives there."""
        now, K = self.now, self.K
        argument = values = now["y"]
        for j in range(first, last):
            sums = torch.matmul(self.A[j, :j], K[:j].flatten(1)).view_as(now["y"])
            argument = torch.addcmul(now["y"], now["length"][:, None], sums)
            values, K[j] = self.velocity(argument)
        return argument, values

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Try one step of every run; the reasons to end, and how many states each accepted step reaches."""
        now, last = self.now, self.pair.stages
        cut = now["t"] + now["h"] > self.t_end
        self._keep(cut & (now["held_for"] != self.t_end))
        now["length"] = torch.where(cut, self.t_end - now["t"], now["h"])
        self.K[0] = now["f"]
        before, _ = self.stages(1, last)
        self.y_new, value = self.stages(last, last + 1)
        self.f_new = self.K[last]
        error = self._error()
        apart = (self.y_new - before).norm(dim=1)
        rho = torch.where(apart > 0.0, (self.f_new - self.K[last - 1]).norm(dim=1) / apart, 0.0)
        return self._judge(cut, value, error, rho)

    def _keep(self, mask) -> None:
        """Remember the present state of some runs as the one to go on from."""
        for name in (*self.kept_names, "y", "f"):
            vector, kept = self.now[name], self.now[f"kept {name}"]
            self.now[f"kept {name}"] = torch.where(mask if vector.ndim == 1 else mask[:, None], vector, kept)
        self.now["held_for"] = torch.where(mask, self.t_end, self.now["held_for"])

    def _error(self) -> torch.Tensor:
        """Errors of the steps in units of their tolerances."""
        now, count = self.now, self.E.shape[1]
        scale = now["atol"][:, None] + self.rtol * torch.maximum(now["y"].abs(), self.y_new.abs())
        sums = torch.matmul(self.E, self.K[:count].flatten(1)).view(-1, *now["y"].shape) / scale
        squares, size = (sums * sums).sum(2), now["y"].shape[1]
        if squares.shape[0] == 1:
            return now["length"] * (squares[0] / size).sqrt()
        joined = squares[0] / ((squares[0] + 0.01 * squares[1]) * size).sqrt()
        return now["length"] * torch.where(squares[0] == 0.0, 0.0, joined)

    def _judge(self, cut, value, error, rho):
        """Accept or reject; the numbers of each run move on."""
        now, order = self.now, self.pair.order
        most, level, _, _ = self.limits
        finite = (error.abs() < math.inf) & (value.abs() < math.inf)
        fine = finite & (error < 1.0)
        below = (fine & (value < level)) | (now["value"] < level)
        self.accepted = accepted = fine & ~below & ~now["bad"]
        shrunk = now["length"] * torch.where(finite, (0.9 * error ** (-1.0 / order)).clamp(min=0.2), 0.1)
        least = 1e-14 * torch.maximum(now["t"].abs(), now["h_tried"])
        collapse = ~fine & ~(shrunk > least)
        floor = error.clamp(min=1e-10)
        factor = 0.9 * floor ** (-0.7 / order) * now["error_before"] ** (0.4 / order)
        grown = (now["length"] * factor.clamp(0.2, 5.0)).clamp(max=1e300)
        status = torch.full_like(now["accepted"], GO_ON)
        status = torch.where(collapse, torch.where(finite, int(Status.STEP_TOO_SMALL), int(Status.DIVERGED)), status)
        status = torch.where(below, int(Status.LOSS_BELOW), status)
        status = torch.where(now["bad"], int(Status.NOT_FINITE_START), status)
        now["gradients"] = now["gradients"] + torch.where(below | now["bad"], 0, self.pair.stages)
        now["rejected"] = now["rejected"] + (~fine & ~now["bad"])
        t_new = torch.where(cut, self.t_end, now["t"] + now["h"])
        free = accepted & ~cut
        changes = {"t_before": now["t"], "t": t_new, "value": value, "accepted": now["accepted"] + 1}
        self._set(accepted, changes)
        self._set(free, {"h": grown, "error_before": floor.clamp(min=1e-4)})
        self._set(~fine & ~below, {"h": shrunk})
        self._set(accepted, {"h_tried": now["h"]})
        self._watch(accepted, cut, rho)
        reached = torch.searchsorted(self.times, now["t"], right=True) - now["saves"]
        self.new = torch.where(accepted, reached, 0)
        self._charge_for_saves()
        return self._stop(status, accepted, most), self.new

    def _set(self, mask, changes) -> None:
        """Change numbers of some runs."""
        for name, vector in changes.items():
            self.now[name] = torch.where(mask, vector, self.now[name])

    def _watch(self, accepted, cut, rho) -> None:
        """Count the steps whose size is set by stability; six calm ones in a row clear the count."""
        now = self.now
        self._set(accepted & (rho > 0.0), {"rho": rho})
        seen, bound = accepted & ~cut, now["length"] * now["rho"] > self.limits[2]
        self._set(seen & bound, {"stiff": now["stiff"] + 1, "calm": torch.zeros_like(now["calm"])})
        self._set(seen & ~bound, {"calm": now["calm"] + 1})
        self._set(seen & ~bound & (now["calm"] >= CALM_STEPS), {"stiff": torch.zeros_like(now["stiff"])})

    def _charge_for_saves(self) -> None:
        """Count the gradients that only the interpolant needs, for the runs that save inside their steps."""
        now, first = self.now, self.times[self.now["saves"]]
        inside = (self.new > 0) & (first < now["t"])
        now["gradients"] = now["gradients"] + torch.where(inside, self.A.shape[0] - 1 - self.pair.stages, 0)

    def _stop(self, status, accepted, most) -> torch.Tensor:
        """Reasons to end before the next step."""
        now = self.now
        ahead = self.t_end - now["t"]
        stiff = (now["stiff"] >= STIFF_STEPS) & (self.pair.stages * ahead > self.limits[3] * now["h"])
        spent = now["gradients"] + self.A.shape[0] - 1 > most
        small = ~(now["t"] + now["h"] > now["t"])
        reasons = ((small, Status.STEP_TOO_SMALL), (spent, Status.GRADIENT_BUDGET), (stiff, Status.STIFF))
        for mask, reason in (*reasons, (now["t"] >= self.t_end, Status.REACHED_END)):
            status = torch.where((status == GO_ON) & mask, int(reason), status)
            status = torch.where((status != GO_ON) & mask & accepted, int(reason), status)
        return status

    def save(self, most: int) -> None:
        """Save the states that accepted steps reach, at most so many for a run."""
        now, rows = self.now, self.A.shape[0]
        self.stages(self.pair.stages + 1, rows)
        room = self.times.numel() - 1
        for k in range(most):
            place = now["saves"] + k
            valid = self.new > k
            time = self.times[place.clamp(max=room)]
            x = (time - now["t_before"]) / now["length"]
            weights, basis = torch.zeros((x.numel(), rows), dtype=x.dtype, device=x.device), x
            for i in range(self.G.shape[0]):
                weights = weights + basis[:, None] * self.G[i]
                basis = basis * (x if i % 2 == 1 else 1.0 - x)
            inside = now["y"] + now["length"][:, None] * torch.einsum("rs,srp->rp", weights, self.K)
            state = torch.where((time == now["t"])[:, None], self.y_new, inside)
            self.saved[now["run"], torch.where(valid, place, room)] = state
        now["saves"] = now["saves"] + self.new

    def move(self) -> None:
        """Accepted runs move to their new states."""
        mask, now = self.accepted[:, None], self.now
        now["y"], now["f"] = torch.where(mask, self.y_new, now["y"]), torch.where(mask, self.f_new, now["f"])

    def finish(self, which, status) -> None:
        """Write down what is known of runs that end."""
        runs, held = self.now["run"][which], ~self.now["held_for"][which].isnan()
        self.ended[runs] = status[which]
        for name in (*self.kept_names, "y", "f"):
            vector, kept = self.now[name][which], self.now[f"kept {name}"][which]
            self.end[name][runs] = vector
            mask = held if vector.ndim == 1 else held[:, None]
            self.end[f"kept {name}"][runs] = torch.where(mask, kept, vector)
        self.end["saves"][runs] = self.now["saves"][which]

    def write(self, results: Results, part: slice) -> None:
        """Copy everything to the host."""
        end: dict[str, Any] = {name: vector.cpu().numpy() for name, vector in self.end.items()}
        results.status[part], results.saves[part] = self.ended.cpu().numpy(), end["saves"]
        results.end[part], results.saved[part] = end["y"], self.saved[:, :-1].cpu().numpy()
        results.kept_state[part], results.kept_velocity[part] = end["kept y"], end["kept f"]
        results.start_velocity[part] = self.start["f"].cpu().numpy()
        for name in self.kept_names:
            rows = results.records[part][name]
            rows[:, NOW], rows[:, KEPT], rows[:, START] = end[name], end[f"kept {name}"], self.start[name].cpu().numpy()
