"""The state of a kinked run as a dict of arrays and numbers, and back."""

from typing import Any

import numpy as np

from gradflow.kinks.arrive import Place
from gradflow.kinks.branch import Branch
from gradflow.kinks.look import Fresh
from gradflow.kinks.slide import Point, surface


def pack(run) -> dict[str, Any]:
    """What a run needs to go on, all copies."""
    place, branches = run.place, run.branch_points
    here, fresh = place.here, place.fresh
    kept = {
        "t": run.t,
        "h": run.h,
        "error_before": run.error_before,
        "shortened": run.shortened,
        "unshortened": run.unshortened,
        "waits": run.waiting is not None,
        "state": place.theta.copy(),
        "velocity": here.velocity.copy(),
        "value": float(here.value),
        "masks": place.sigma.copy(),
        "sliding": place.sliding.copy(),
        "held": place.held.astype(np.int64),
        "preactivations": here.z.copy(),
        "multipliers": here.multipliers.copy(),
        "attraction": here.attraction.copy(),
        "shadowed": place.shadowed.copy(),
        "fresh": fresh.kinks.copy(),
        "fresh_speed": fresh.speed.copy(),
        "fresh_rest": fresh.rest.copy(),
        "since": run.since,
        "patience": run.patience,
        "entered": np.array(run.entered),
        "origin_time": np.array([time for time, _ in run.origins]),
        "origin_neuron": np.array([neuron for _, neuron in run.origins], dtype=np.int64),
        "branch_time": np.array([branch.time for branch in branches]),
        "branch_theta": np.array([branch.theta for branch in branches]).reshape(-1, place.theta.size),
        "branch_masks": np.array([branch.masks for branch in branches]).reshape(-1, place.sigma.size),
        "branch_sliding": _marked(run, [branch.sliding for branch in branches]),
        "branch_sigma": _marked(run, [branch.kinks for branch in branches], [branch.sigma for branch in branches]),
        "way_branch": np.repeat(np.arange(len(branches)), [len(branch.ways) for branch in branches]).astype(np.int64),
        "way_share": np.concatenate([np.zeros(0), *(branch.shares for branch in branches)]),
        "way_status": _marked(
            run,
            [branch.kinks for branch in branches for _ in branch.ways],
            [status for branch in branches for status in branch.ways],
        ),
    }
    stiff = {} if run.stiff is None else {f"stiff_{name}": value for name, value in run.stiff.snapshot().items()}
    return kept | run.counts | run.record.arrays() | stiff


def _marked(run, kinks, values=None):
    """One row per branch: NaN, but 1 (or a value) at the kinks."""
    rows = np.full((len(kinks), run.network.size), np.nan)
    for i, own in enumerate(kinks):
        rows[i, own] = 1.0 if values is None else values[i]
    return rows


def unpack(run, kept) -> None:
    """Go to the state that :func:`pack` has described."""
    theta, masks = np.array(kept["state"], dtype=float), np.array(kept["masks"], dtype=float)
    if theta.shape != run.place.theta.shape or masks.shape != (run.network.size,):
        raise ValueError(
            f"the snapshot has {theta.size} parameters and {masks.size} masks, this run {run.place.theta.size} and"
            f" {run.network.size}: restore it to a stepper of the same problem"
        )
    sliding = np.array(kept["sliding"], dtype=np.int64)
    names = ("velocity", "preactivations", "multipliers", "attraction")
    here = Point(float(kept["value"]), *(np.array(kept[name], dtype=float) for name in names))
    fresh = Fresh(kept["fresh"], kept["fresh_speed"], kept["fresh_rest"])
    joint = surface(run.network, sliding) if sliding.size else None
    held, shadowed = np.array(kept["held"], dtype=bool), np.array(kept["shadowed"], dtype=np.int64)
    run.place = Place(theta, masks, sliding, held, here, joint, fresh, shadowed)
    run.t = run.t_before = float(kept["t"])
    run.h, run.error_before = float(kept["h"]), float(kept["error_before"])
    run.shortened, run.unshortened, run.dispute = int(kept["shortened"]), float(kept["unshortened"]), ""
    run.theta_before, run.step, run.uncut, run.cut_at, run.rest = theta.copy(), None, None, None, None
    run.counts = {name: int(kept[name]) for name in run.counts}
    run.since, run.patience = int(kept["since"]), int(kept["patience"])
    t, gradients, pace = map(float, kept["entered"])
    run.entered = t, int(gradients), pace
    run.record.load(kept)
    run.origins = [(float(t), int(j)) for t, j in zip(kept["origin_time"], kept["origin_neuron"], strict=True)]
    run.branch_points = _branches(kept)
    run.waiting = run.branch_points[-1] if kept["waits"] else None


def _branches(kept):
    """Branch points of a snapshot."""
    found = []
    columns = ("branch_time", "branch_theta", "branch_masks", "branch_sliding", "branch_sigma")
    for time, theta, masks, sliding, sigma in zip(*(np.asarray(kept[name]) for name in columns), strict=True):
        kinks, slides = np.flatnonzero(~np.isnan(sigma)), np.flatnonzero(~np.isnan(sliding))
        own = np.flatnonzero(np.asarray(kept["way_branch"]) == len(found))
        ways = np.asarray(kept["way_status"])[np.ix_(own, kinks)].astype(np.int64)
        shares = np.array(kept["way_share"], dtype=float)[own]
        found.append(Branch(float(time), theta.copy(), masks.copy(), slides, kinks, sigma[kinks], ways, shares))
    return found
