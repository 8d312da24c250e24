"""A hint to the processor, from inside a numba kernel: this memory will be read soon.

Frames are read once and from main memory. A kernel that takes two rows at a time or skips what lies outside a detector
confuses the processor's own prediction and then runs at a third of the speed at which memory can be read.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

AHEAD_BYTES = 8192
"""How far ahead of its use memory is asked for: farther than one access takes, nearer than the first cache holds."""

LINE_BYTES = 64
"""What one hint fetches: a line of the cache."""

_READ, _KEEP, _DATA = 0, 3, 1


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of `array[index]`, for a one-dimensional contiguous array; harmless beyond its end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(hint, [address, *(ir.Constant(word, value) for value in (_READ, _KEEP, _DATA))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


prefetch: Any = intrinsic(_prefetch)
"""`prefetch(array, index)` within a kernel; see `_prefetch`."""
