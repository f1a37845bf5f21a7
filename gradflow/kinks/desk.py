"""What compiled code knows of a kinked run: records of numbers and of addresses of arrays, handed on by pointer."""

import math
import zlib
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.datamodel import models
from numba.extending import register_model

from gradflow.kernels.procedures import integers_at, intrinsic, numbers_at, procedure

INT, FLOAT = types.int64, types.float64

_NETWORK = (
    "layout numbers size units samples width inputs length lengths bias flat first begin last layers"
    " of_sample of_neuron live low gap ties tied_at tied factor"
)
_METHOD = (
    "A A_step C E estimates powers degree rows stages nodes nodes_count from_powers from_shorter from_values atol"
    " places"
)
_PLACE = "theta z sigma pulls fresh fresh_count fresh_speed fresh_rest dark dark_count signs signs_known"
_LAST_STEP = "theta_before sigma_before kinks_before count_before event_last own"
_TRIAL = (
    "all_stages ends bends spare_units coefficients stage_pulls slack culprits culprit_count sides capacity trouble"
    " x_powers along_theta along_velocity along_pulls"
    " watched watched_count watched_sign watched_slack watched_growth mask_scale"
)
_EVENT = (
    "spot next_sigma event_units event_pulls event_velocity event_fresh event_speed event_rest event_count event_dark"
    " event_dark_count names name_count status calm stay leeway"
)
_RECORD = (
    "gradients accepted rejected shortened most_gradients most_accepted most_instants instants instant_count"
    " old_instants kinds kinks masks row_instants row_count most_rows regions save_times save_count save_next saved"
    " look look_every since patience"
)
_NUMBERS = (
    "rtol order rank rounding wrong input_scale t h error_before value t_before length_before found error unshortened"
    " loss_below t_end x along event_value reach least"
)


class Brief(types.Record):
    """Record whose name is short: numba's own names tell all fields, and are written out wherever it is used."""

    def __init__(self, fields, size, aligned):
        super().__init__(fields, size, aligned)
        self.name = f"brief_{zlib.crc32(self.name.encode()):x}"

    def __repr__(self):
        return self.name


register_model(Brief)(models.RecordModel)
_pointers: dict = {}


def _record(integers, numbers=""):
    """Record of integers and numbers, and a pointer to one as compiled code knows it."""
    fields = [(name, "i8") for name in integers.split()] + [(name, "f8") for name in numbers.split()]
    dtype = np.dtype(fields)
    parts: Any = dtype.fields
    places = [(name, {"type": numba.from_dtype(kind), "offset": at}) for name, (kind, at) in parts.items()]
    pointer = _pointers[numba.from_dtype(dtype)] = types.CPointer(Brief(places, dtype.itemsize, False))
    return dtype, pointer


_INTEGERS = " ".join((_NETWORK, _METHOD, _PLACE, _LAST_STEP, _TRIAL, _EVENT, _RECORD))
DESK, Desk = _record(_INTEGERS, _NUMBERS)
"""A run: the network, the Runge-Kutta pair, the place, the trial step, the event in hand, counts, and the record."""

WALL, Wall = _record("count kinks held stacked order owners basis triangle")
"""Sliding kinks in order, whether each is held. Kinks of the first layer, neuron by neuron (`order`, `owners`): an
orthonormal basis of their normals, and the triangle of coefficients that makes the normals from it."""


@intrinsic
def at(typing_context, pointer):
    """The record at a pointer."""

    def generate(context, builder, signature, values):
        return builder.bitcast(values[0], context.get_value_type(signature.return_type))

    return pointer.dtype(pointer), generate


@procedure(INT(INT, INT, INT))
def copy(count, source, target):
    """Copy numbers or integers from one address to another."""
    source, target = integers_at(source), integers_at(target)
    for i in range(count):
        target[i] = source[i]
    return count


@procedure(FLOAT(INT, INT))
def length_of(vector, count):
    """Euclidean length."""
    vector, total = numbers_at(vector), 0.0
    for i in range(count):
        total += vector[i] * vector[i]
    return math.sqrt(total)


@intrinsic
def pointer_to(typing_context, array):
    """Pointer to the first record of an array."""

    def generate(context, builder, signature, values):
        kind = context.get_value_type(signature.return_type)
        data = context.make_array(array)(context, builder, value=values[0]).data
        return builder.bitcast(data, kind)

    return _pointers[array.dtype](array), generate
