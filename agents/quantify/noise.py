"""What of white noise a fit takes up: effective parameters, and the expected pull on the detector's tail.

Traces are estimated with random images of fixed seed (Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433).
"""

import numpy as np

from agents.quantify.normal import Normal
from agents.quantify.smear import Smear, slope, smeared
from twin.arrays import Floats

PROBES = 2
SEED = 20231


def taken_up(
    equations: Normal, border_covariance: Floats, pixels: tuple[Floats, Floats], smear: Smear | None
) -> tuple[float, float]:
    """Effective number of parameters of a fit, and expected product of its residuals with the slope of the tail.

    Args:
        equations: linearised fit.
        border_covariance: covariance of lines and shared parameters, (b, b).
        pixels: standard deviation of each over the one that its weight assumes, and its weight, (rows, columns) each.
        smear: response of the detector, or None.

    Returns:
        The trace of the projection P of the fit for this noise, and that of (1 - P) G, where G turns noise into the
        derivative of the restored noise by the logarithm of the response's constant: at the true constant, residuals
        times derivative, over the variance, have this mean.
    """
    (sigma, weight), rng = pixels, np.random.default_rng(SEED)
    root, nothing = np.sqrt(weight), np.zeros(len(weight))
    parameters = pull = 0.0
    for _ in range(PROBES):
        noise = sigma * rng.choice([-1.0, 1.0], weight.shape)
        explained = equations.explained(noise.ravel(), border_covariance).reshape(weight.shape)
        parameters += float(np.sum(noise * explained)) / PROBES
        if smear is not None:
            recorded = smeared(noise / root, smear.weights(weight.shape[1]), nothing)
            pull += float(np.sum((noise - explained) * root * slope(recorded, smear, nothing))) / PROBES
    return parameters, pull
