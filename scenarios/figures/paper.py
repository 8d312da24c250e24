"""Which figures van Hulst et al. 2026 have, and how each is made."""

from functools import partial

from scenarios.figures import curves, latents, maps
from scenarios.figures.pictures import PublishedFigure

_figure = partial(PublishedFigure, "paper")

FIGURES = (
    _figure(1, "spectra", "Ronchigrams and their power spectra at x and -x", lambda _: latents.spectra()),
    _figure(4, "latent_space", "States of two aberrations and their latents", lambda _: latents.nominal_day()),
    _figure(5, "days", "Latents of several days", lambda _: latents.several_days()),
    _figure(6, "map", "Prior mean, and the map learned on day_b", lambda _: maps.learned()),
    _figure(7, "errors", "Error against observations, day_a and day_b", curves.mild_and_strong_gap),
    _figure(8, "errors_further_days", "Error against observations, day_c and random_1", curves.further_days),
)
