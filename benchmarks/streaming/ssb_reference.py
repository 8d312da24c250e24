"""The SSB of ptychography40 on LiberTEM, driven line by line from another interpreter; see `streaming.ssb`.

    python streaming/ssb_reference.py SCAN CAMERA RADIUS_PX ROW.npy ROWS

It builds its weights and says how many seconds that took, then answers each line on its standard input with the
seconds of processor time that ROWS rows of the scan took, each of the frames (SCAN, H, W) in ROW.npy. It ends with its
input.
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
        from libertem.common.container import MaskContainer
        from libertem.executor.inline import InlineJobExecutor
        from ptychography40.reconstruction.ssb import SSB_UDF, generate_masks

    warnings.simplefilter("ignore")
    scan, camera, radius_px = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    row, rows = np.load(sys.argv[4]), int(sys.argv[5])
    beam = {"lamb": 1.9687e-12, "dpix": 0.02e-9, "semiconv": 0.02, "semiconv_pix": radius_px}
    middle = {"cy": camera // 2, "cx": camera // 2}
    begun = time.process_time()
    masks = generate_masks(
        reconstruct_shape=(scan, scan), mask_shape=(camera, camera), dtype=np.float32, **beam, **middle
    )
    print(time.process_time() - begun, flush=True)
    container = MaskContainer(
        mask_factories=lambda: masks, dtype=masks.dtype, use_sparse="scipy.sparse.csr", count=masks.shape[0]
    )
    context = lt.Context(executor=InlineJobExecutor())
    # The scan in full would be half a gigabyte: every row repeats the one that is given.
    dataset = context.load("memory", data=np.broadcast_to(row, (scan, *row.shape)), sig_dims=2)
    udf = SSB_UDF(mask_container=container, dtype=np.float32, **beam, **middle)
    part = np.zeros((scan, scan), bool)
    part[:rows] = True
    for _ in sys.stdin:
        begun = time.process_time()
        context.run_udf(udf=udf, dataset=dataset, roi=part)
        print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
