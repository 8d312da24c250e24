"""LiberTEM's centre of mass or ring detector, driven from another interpreter; see `streaming.com`.

    python streaming/com_reference.py com|ring SIDE COUNT INNER_PX OUTER_PX

Answers each line on its standard input with the seconds of processor time that COUNT frames of SIDE x SIDE float32
took, and ends with its input.
"""

import contextlib
import sys
import time
import warnings

import numpy as np


def main() -> None:
    """Serve."""
    # Whatever these packages print would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr):
        import libertem.api as lt
        from libertem.executor.inline import InlineJobExecutor
        from libertem.udf.com import CoMUDF

    warnings.simplefilter("ignore")
    kind, side, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    inner, outer = float(sys.argv[4]), float(sys.argv[5])
    y, x = np.indices((side, side)) - side // 2
    few = np.random.default_rng(0).poisson(np.where(np.hypot(y, x) < side / 5, 5.0, 0.05), (16, side, side))
    frames = np.tile(few.astype(np.float32), (count // 16, 1, 1)).reshape(-1, 16, side, side)
    context = lt.Context(executor=InlineJobExecutor())
    dataset = context.load("memory", data=frames, sig_dims=2)
    ring = context.create_ring_analysis(dataset, cx=side // 2, cy=side // 2, ri=inner, ro=outer)
    for _ in sys.stdin:
        begun = time.process_time()
        if kind == "com":
            context.run_udf(dataset=dataset, udf=CoMUDF.with_params(cy=side // 2, cx=side // 2))
        else:
            context.run(ring)
        print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
