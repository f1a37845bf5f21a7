"""Names of activation regions: numbers made from masks and sliding kinks."""

from numba import njit

from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import OPTIONS, address_of, integers_at, numbers_at, procedure
from gradflow.kinks.desk import INT

FACTOR = -7046029288634856825


@njit(**OPTIONS)
def _mixed(number):
    """A number whose bits all depend on all bits of the given one."""
    number = (number ^ (number >> 32)) * FACTOR
    return (number ^ (number >> 29)) * FACTOR


@procedure(INT(INT, INT, INT, INT))
def name_region(units, sigma, count, kinks):
    """Name of the region with these masks (active above 1/2) and sliding kinks."""
    sigma, kinks, name, word = numbers_at(sigma), integers_at(kinks), 0, 0
    for i in range(units):
        word |= (1 if sigma[i] > 0.5 else 0) << (i & 63)
        if i & 63 == 63 or i == units - 1:
            name, word = _mixed(name ^ word), 0
    for a in range(count):
        name = _mixed(name ^ (kinks[a] + units))
    return name


@entry("i8(f8[::1], i8[::1])")
def region_name(sigma, kinks):
    """The same for arrays."""
    return name_region(sigma.size, address_of(sigma), kinks.size, address_of(kinks))
