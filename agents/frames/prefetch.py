"""A hint to the processor, from inside a numba kernel: this memory will be read soon.

Frames are read once and from main memory. A kernel that takes two rows at a time or skips what lies outside a detector
confuses the processor's own prediction and then runs at a third of the speed at which memory can be read.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

AHEAD_BYTES = 16384
"""How far ahead of its use memory is asked for: farther than one access takes, nearer than the first cache holds."""

LINE_BYTES = 64
"""What one hint fetches: a line of the cache."""

_READ, _DATA = 0, 1
_TO_FIRST, _TO_SECOND = 3, 2
"""The cache that memory is fetched into."""


def _hint(cache: int) -> Any:
    """Ask for the cache line of `array[index]`, for a one-dimensional contiguous array; harmless beyond its end."""

    def typed(typing_context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
            address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
            builder.call(hint, [address, *(ir.Constant(word, value) for value in (_READ, cache, _DATA))])
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return intrinsic(typed)


prefetch: Any = _hint(_TO_FIRST)
"""`prefetch(array, index)` within a kernel that reads here and there; see `_hint`."""

prefetch_all: Any = _hint(_TO_SECOND)
"""The same within a kernel that reads everything, as fast as memory gives it.

Few fetches into the first cache may be under way at a time: on Zen 4 they bring half of what memory gives.
"""
