"""LiberTEM, ptychography40 and py4DSTEM, driven line by line from another interpreter; see `references.py`.

    python benchmarks/reference_program.py com|ring SIDE COUNT INNER_PX OUTER_PX
    python benchmarks/reference_program.py ssb SCAN CAMERA RADIUS_PX ROW.npy ROWS
    python benchmarks/reference_program.py epie FRAMES.npy ENERGY_KEV CONVERGENCE_MRAD STEP_NM PIXEL_MRAD ITERATIONS

It prints the seconds of its preparation as a list of one, then answers each line on its standard input with the seconds
of processor time of one round and a figure (the error that ePIE reached, else zero). It ends with its input. Nothing of
stemtwin is imported: the interpreter need not have it.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

Round = Callable[[], float]


def libertem(kind: str, side: int, count: int, inner: float, outer: float) -> tuple[Round, float]:
    """Centre of mass or a ring detector of COUNT frames of SIDE x SIDE float32."""
    import libertem.api as lt
    from libertem.executor.inline import InlineJobExecutor
    from libertem.udf.com import CoMUDF

    y, x = np.indices((side, side)) - side // 2
    few = np.random.default_rng(0).poisson(np.where(np.hypot(y, x) < side / 5, 5.0, 0.05), (16, side, side))
    frames = np.tile(few.astype(np.float32), (count // 16, 1, 1)).reshape(-1, 16, side, side)
    context = lt.Context(executor=InlineJobExecutor())
    dataset = context.load("memory", data=frames, sig_dims=2)
    ring = context.create_ring_analysis(dataset, cx=side // 2, cy=side // 2, ri=inner, ro=outer)

    def run() -> float:
        if kind == "com":
            context.run_udf(dataset=dataset, udf=CoMUDF.with_params(cy=side // 2, cx=side // 2))
        else:
            context.run(ring)
        return 0.0

    return run, 0.0


def ssb(scan: int, camera: int, radius_px: float, row_file: str, rows: int) -> tuple[Round, float]:
    """SSB of ROWS rows of the scan, each of the frames (SCAN, H, W) in the file; prepared are its weights."""
    import libertem.api as lt
    from libertem.common.container import MaskContainer
    from libertem.executor.inline import InlineJobExecutor
    from ptychography40.reconstruction.ssb import SSB_UDF, generate_masks

    row = np.load(row_file)
    beam = {"lamb": 1.9687e-12, "dpix": 0.02e-9, "semiconv": 0.02, "semiconv_pix": radius_px}
    middle = {"cy": camera // 2, "cx": camera // 2}
    begun = time.process_time()
    masks = generate_masks(
        reconstruct_shape=(scan, scan), mask_shape=(camera, camera), dtype=np.float32, **beam, **middle
    )
    prepared_s = time.process_time() - begun
    container = MaskContainer(
        mask_factories=lambda: masks, dtype=masks.dtype, use_sparse="scipy.sparse.csr", count=masks.shape[0]
    )
    context = lt.Context(executor=InlineJobExecutor())
    # The scan in full would be half a gigabyte: every row repeats the one that is given.
    dataset = context.load("memory", data=np.broadcast_to(row, (scan, *row.shape)), sig_dims=2)
    udf = SSB_UDF(mask_container=container, dtype=np.float32, **beam, **middle)
    part = np.zeros((scan, scan), bool)
    part[:rows] = True

    def run() -> float:
        context.run_udf(udf=udf, dataset=dataset, roi=part)
        return 0.0

    return run, prepared_s


def epie(
    file: str, energy_kev: float, convergence_mrad: float, step_nm: float, pixel_mrad: float, iterations: int
) -> tuple[Round, float]:
    """Single-slice ptychography of the frames in the file; the figure is its amplitude error."""
    import py4DSTEM
    from py4DSTEM.process.phase import SingleslicePtychography

    cube = py4DSTEM.DataCube(data=np.load(file))
    cube.calibration.set_R_pixel_size(step_nm * 10)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(pixel_mrad)
    cube.calibration.set_Q_pixel_units("mrad")
    work = SingleslicePtychography(
        energy=energy_kev * 1e3, datacube=cube, semiangle_cutoff=convergence_mrad, verbose=False
    )
    quiet = dict.fromkeys(("plot_center_of_mass", "plot_rotation", "plot_probe_overlaps", "force_com_transpose"), False)
    work.preprocess(force_com_rotation=0, **quiet)
    plain = dict.fromkeys(
        ("gaussian_filter", "butterworth_filter", "tv_denoise", "object_positivity", "fix_potential_baseline"), False
    )

    def run() -> float:
        work.reconstruct(
            num_iter=iterations, reset=True, progress_bar=False, max_batch_size=64, step_size=1.0, seed_random=0,
            **plain,
        )  # fmt: skip
        return float(work.error) ** 0.5

    return run, 0.0


def main() -> None:
    """Prepare, then a round for each line."""
    # Whatever these packages print would be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    kind, *words = sys.argv[1:]
    if kind == "ssb":
        scan, camera, radius_px, file, rows = words
        run, prepared_s = ssb(int(scan), int(camera), float(radius_px), file, int(rows))
    elif kind == "epie":
        file, energy_kev, convergence_mrad, step_nm, pixel_mrad, iterations = words
        geometry = float(energy_kev), float(convergence_mrad), float(step_nm), float(pixel_mrad)
        run, prepared_s = epie(file, *geometry, int(iterations))
    else:
        side, count, inner, outer = words
        run, prepared_s = libertem(kind, int(side), int(count), float(inner), float(outer))
    print(json.dumps([prepared_s]), file=answers, flush=True)
    for _ in sys.stdin:
        begun = time.process_time()
        figure = run()
        print(json.dumps([time.process_time() - begun, figure]), file=answers, flush=True)


if __name__ == "__main__":
    main()
