"""How NumPy arrays are taken apart so that their memory travels out of band, whatever their layout.

NumPy does so itself only for contiguous arrays of dtypes that the buffer protocol knows. Imported
once NumPy has been; payloads refer to the ``rebuild_*`` functions by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

import numpy as np

__all__ = ["REDUCERS", "rebuild_array", "rebuild_masked", "rebuild_readonly", "rebuild_view"]

_Array = np.ndarray[Any, Any]


def reduce_array(array: _Array) -> tuple[Any, ...]:
    """Reduce an array to its memory and what it takes to see an array in it again."""
    dtype = array.dtype
    if dtype.hasobject or not dtype.itemsize:
        return _reduce_in_band(array)
    ordered: Any = array
    axes = None
    if not array.flags.c_contiguous:
        # Axes by falling stride: Fortran order and other transpositions need no copy, anything
        # else is copied in the order its memory lies in.
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        axes = tuple(order.index(axis) for axis in range(array.ndim))
        ordered = array.transpose(order)
        if not ordered.flags.c_contiguous:
            ordered = np.ascontiguousarray(ordered)
            ordered.flags.writeable = array.flags.writeable
    try:
        buffer = PickleBuffer(ordered)
    except (ValueError, BufferError):  # datetime64, timedelta64 and dtypes from outside NumPy
        buffer = PickleBuffer(ordered.reshape(-1).view(np.uint8))
    return rebuild_array, (buffer, _portable(dtype), ordered.shape, axes)


def _portable(dtype: np.dtype[Any]) -> object:
    """Return the dtype's short name where it says everything: quicker and shorter to pickle."""
    plain = dtype.kind in "biufcmMSU" and dtype.isbuiltin != 2 and dtype.metadata is None
    return dtype.str if plain else dtype


def rebuild_array(
    buffer: Any, dtype: Any, shape: tuple[int, ...], axes: tuple[int, ...] | None
) -> _Array:
    """See an array in a buffer; it is writable if the buffer is."""
    array: _Array = np.ndarray(shape, dtype, buffer)
    return array if axes is None else array.transpose(axes)


def _reduce_in_band(array: _Array) -> tuple[Any, ...]:
    """Leave it to NumPy, which pickles element by element, but forgets the read-only flag."""
    reduced: tuple[Any, ...] = array.__reduce_ex__(5)  # type: ignore[assignment]
    if array.flags.writeable:
        return reduced
    return *reduced, None, None, rebuild_readonly


def rebuild_readonly(array: _Array, state: Any) -> None:
    """Fill an array that nobody is to change afterwards."""
    array.__setstate__(state)
    array.flags.writeable = False


def _reduce_subclass(array: _Array) -> tuple[Any, ...]:
    return rebuild_view, (type(array), array.view(np.ndarray))


def rebuild_view(cls: type[_Array], array: _Array) -> _Array:
    """See an array as one of NumPy's own subclasses that adds no state."""
    return array.view(cls)


def _reduce_masked(array: np.ma.MaskedArray[Any, Any]) -> tuple[Any, ...]:
    mask = np.ma.getmask(array)
    shown = None if mask is np.ma.nomask else mask
    return rebuild_masked, (array.data, shown, array.fill_value, array.hardmask)


def rebuild_masked(data: _Array, mask: _Array | None, fill_value: Any, hard_mask: bool) -> Any:
    """Put a mask on an array."""
    return np.ma.MaskedArray(
        data,
        mask=np.ma.nomask if mask is None else mask,
        fill_value=fill_value,
        hard_mask=hard_mask,
        copy=False,
    )


REDUCERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    np.ndarray: reduce_array,
    # Its content travels: as with pickle, it is of the class still, but has no file any more.
    np.memmap: _reduce_subclass,
    np.matrix: _reduce_subclass,
    np.recarray: _reduce_subclass,
    np.ma.MaskedArray: _reduce_masked,
}
"""Exact types only: what a subclass adds, only its own ``__reduce__`` knows."""
