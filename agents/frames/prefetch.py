"""Prefetching in numba kernels: ask the processor to fetch memory before it is read.

Frames are read once, from main memory. The hardware prefetcher does not recognise the pattern of a kernel that takes
two rows at a time or skips pixels. Without these hints, moments of 256 x 256 frames of 16 bit take 1.5 times as long,
weighted sums 1.3 times. Numba has no prefetch of its own; LLVM's is called by an intrinsic.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

AHEAD_BYTES = 16384
"""Distance of prefetching: more than the latency of memory, less than the size of the first cache."""

LINE_BYTES = 64
"""Size of a cache line, which one hint fetches."""

READ, DATA = 0, 1
FIRST_LEVEL, SECOND_LEVEL = 3, 2
"""Arguments of `llvm.prefetch` (LLVM language reference): read access, data cache, and the level that is filled."""


def _intrinsic(level: int) -> Any:
    """`prefetch(array, index)` for a one-dimensional contiguous array; harmless beyond its end."""

    def typed(typing_context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
            prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
            address = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
            builder.call(prefetch, [address, *(ir.Constant(word, value) for value in (READ, level, DATA))])
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return intrinsic(typed)


prefetch: Any = _intrinsic(FIRST_LEVEL)
"""`prefetch(array, index)` for kernels that read some of the pixels."""

prefetch_all: Any = _intrinsic(SECOND_LEVEL)
"""The same for kernels that read all pixels. On Zen 4 fetches into the first cache reach half the memory bandwidth."""
