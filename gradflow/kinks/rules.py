"""The rules of a decision at kinks, compiled: whose status disagrees with the velocity, and what it becomes."""

import math

import numpy as np

from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import address_of, integers_at, keep, numbers_at, procedure
from gradflow.kinks.desk import INT
from gradflow.kinks.passes import solve_cholesky
from gradflow.kinks.slide import RANK

SLIDE, TIE = 2, 1e-10
"""Status of a sliding kink; relative speed that counts as rest, and distance of sigma from 0 and 1 that is none."""


@procedure(INT(*[INT] * 11))
def weigh(count, multipliers, attraction, speed, tie, status, calm, held, slack, offence, better):
    """How much each kink's status disagrees with the velocity (0: agrees), the status to try instead; offenders."""
    lam, d, speed, tie = numbers_at(multipliers), numbers_at(attraction), numbers_at(speed), numbers_at(tie)
    status, calm, held = integers_at(status), integers_at(calm), integers_at(held)
    slack, offence, better = numbers_at(slack), numbers_at(offence), integers_at(better)
    top, offenders = 0.0, 0
    for a in range(count):
        top = max(top, abs(d[a]))
    for a in range(count):
        sigma = 0.0 if abs(d[a]) <= 1e-14 * top else lam[a] / d[a]
        offence[a], better[a] = 0.0, status[a]
        if status[a] == SLIDE:
            if not held[a] and not d[a] > 0.0:
                offence[a], better[a] = 1.0, 1 if lam[a] > 0.0 else 0
            elif sigma >= 1.0 + slack[a]:
                offence[a], better[a] = TIE + max(sigma - 1.0 + TIE, 0.0), 1
            elif sigma <= -slack[a]:
                offence[a], better[a] = TIE + max(TIE - sigma, 0.0), 0
        elif not calm[a] and abs(speed[a]) > tie[a] and (speed[a] > 0.0) == (status[a] == 0):
            offence[a] = abs(speed[a]) * TIE / max(tie[a], 1e-300)
            better[a] = SLIDE if d[a] > 0.0 else 1 - status[a]
        offenders += offence[a] > 0.0
    return offenders


@procedure(INT(*[INT] * 6))
def resting_speeds(count, gram, speed, d, tie, step):
    """Normal speeds that count as rest; a normal that is short beside the others may be rounding only.

    `speed` holds the size of the velocity, one number, or one for each kink with step 1.
    """
    gram, d, tie = numbers_at(gram), numbers_at(d), numbers_at(tie)
    speed, top = numbers_at(speed), 0.0
    for a in range(count):
        tie[a] = math.sqrt(gram[a * count + a])
        top = max(top, tie[a])
    for a in range(count):
        length = max(tie[a], 1e-3 * top)
        tie[a] = TIE * length * max(speed[step * a], abs(d[a]) * length)
    return 0


@procedure(INT(*[INT] * 6))
def solve_slides(count, gram, plain, status, multipliers, speed):
    """Multipliers of the sliding kinks that stop them, and all normal speeds then; 0 if their normals are dependent."""
    gram, plain, status = numbers_at(gram), numbers_at(plain), integers_at(status)
    lam, speed = numbers_at(multipliers), numbers_at(speed)
    chosen, m = np.empty(count, np.int64), 0
    for a in range(count):
        if status[a] == SLIDE:
            chosen[m] = a
            m += 1
    part, right, found = np.empty(m * m), np.empty(m), np.empty(m)
    for a in range(m):
        right[a] = plain[chosen[a]]
        for b in range(m):
            part[a * m + b] = gram[chosen[a] * count + chosen[b]]
    solved = solve_cholesky(m, address_of(part), address_of(right), RANK, address_of(found))
    for a in range(count):
        lam[a] = 0.0
    for a in range(m):
        lam[chosen[a]] = found[a]
    for a in range(count):
        total = plain[a]
        for b in range(m):
            total -= gram[a * count + chosen[b]] * found[b]
        speed[a] = total
    keep(part)
    keep(right)
    return solved


@entry("i8(f8[:, ::1], f8[:, ::1], i8[:, ::1], i8[::1])")
def offences(found, limits, marks, better):
    """Offenders among kinks given by arrays: rows of `found` are multipliers, attractions, speeds and ties, of `limits`
    the slack and the offences, of `marks` the status, calm and held ones.
    """
    k, rows, room, flags = better.size, address_of(found), address_of(limits), address_of(marks)
    return weigh(
        k, rows, rows + 8 * k, rows + 16 * k, rows + 24 * k, flags, flags + 8 * k, flags + 16 * k, room, room + 8 * k,
        address_of(better),
    )  # fmt: skip


@entry("i8(f8[:, ::1], f8[::1], f8[::1], f8[::1])")
def rests(gram, speed, d, tie):
    """Speeds that are rest, for kinks given by arrays; one size of the velocity, or one for each."""
    step = 1 if speed.size == d.size and d.size > 1 else 0
    return resting_speeds(d.size, address_of(gram), address_of(speed), address_of(d), address_of(tie), step)
