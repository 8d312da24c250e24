"""The report stands alone, tells the verdict, and escapes what it did not write."""

import base64
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.base import Estimate
from scenarios.calibration.page import headline, probe_line, render, saturation_line, strict_line
from scenarios.calibration.results import Correction, Result, Step
from scenarios.schema import Scenario
from twin.types import Frame

Make = Callable[..., Scenario]


def frame(rng: np.random.Generator) -> Frame:
    return Frame(rng.poisson(50.0, (64, 64)).astype(np.uint16), dose_e=1e6, exposure_s=0.5, clock_s=1.0)


def made_up(scenario: Scenario, error_nm: float = 3.0) -> Result:
    """Four observations of a state that is known to be 1, 2, ..., n nm, all `error_nm` off in the last component."""
    rng = np.random.default_rng(0)
    n = scenario.space.dimension
    truth = tuple(float(i + 1) for i in range(n))
    error = (0.0,) * (n - 1) + (error_nm,)
    zero, mean = (0.0,) * n, tuple(t - e for t, e in zip(truth, error, strict=True))
    in_spec = error_nm < scenario.space.tolerance_nm[-1]
    steps = tuple(
        Step(k, zero, zero, mean, (2.0,) * n, 0.9, error, error_nm, in_spec, False, True, 0.012, k * 1e6, float(k))
        for k in range(1, 5)
    )
    samples = rng.normal(mean, 2.0, (50, n))
    estimate = Estimate(np.array(mean), 4.0 * np.eye(n), 0.9, samples, np.full(50, 0.02))
    correction = Correction(zero, error, in_spec, frame(rng))
    return Result(
        scenario, "random", 4, "complete", Path("there"), truth, steps, estimate, frame(rng), correction, None
    )


@pytest.fixture
def result(small: Make) -> Result:
    return made_up(small())


@pytest.mark.usefixtures("drawn")
def test_nothing_is_loaded_from_elsewhere(result: Result) -> None:
    page = render(result)
    assert "http" not in page
    assert "<script" not in page
    sources = re.findall(r'src="([^"]{0,40})', page)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for figure in re.findall(r"base64,([^\"]+)", page):
        assert base64.b64decode(figure, validate=True).startswith(b"\x89PNG")


TEN = "space.tolerance_nm=[10, 10, 10]"


def test_the_verdict_follows_the_tolerance(small: Make) -> None:
    good, bad = made_up(small(3, TEN), 3.0), made_up(small(3, TEN), 30.0)
    assert headline(good) == "in spec: 3.00 nm from the truth after 4 observations"
    assert headline(bad) == "out of spec: 30.00 nm from the truth after 4 observations"
    assert '<div class="card good"><b>in spec</b>' in render(good)
    assert '<div class="card bad"><b>out of spec</b>' in render(bad)


def test_the_page_states_cost_correction_and_settings(result: Result) -> None:
    page = render(result)
    for text in ("4e+06 e", "4.0 s", "12 ms", "C12b +3.00", "convergence_mrad: 14.0", "seed 4"):
        assert text in page
    assert page.count("<tr><td>") == 5  # four observations and the truth


def test_foreign_text_is_escaped(small: Make) -> None:
    page = render(made_up(small(3, 'description="<img src=x onerror=alert(1)>"')))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


@pytest.mark.usefixtures("drawn")
def test_seven_coefficients_have_a_page(small: Make) -> None:
    page = render(made_up(small(3, "space=second_order")))
    assert "C10, C12a, C12b within 40 nm" in page


def test_a_run_cut_short_still_has_a_page(result: Result) -> None:
    cut = replace(result, status="interrupted", correction=None)
    assert headline(cut) == "interrupted after 4 observations"
    assert "The run ended before the correction was applied." in render(cut)
    empty = replace(cut, steps=(), estimate=None, before=None, truth_nm=())
    assert headline(empty) == "interrupted after 0 observations"
    assert "no observation was taken" in render(empty)


@pytest.mark.usefixtures("drawn")
def test_an_estimate_without_samples_or_weights_is_drawn(result: Result) -> None:
    assert result.estimate is not None
    for stripped in (replace(result.estimate, samples_nm=None), replace(result.estimate, weights=None)):
        assert render(replace(result, estimate=stripped)).count("data:image/png") == 3


def test_a_scored_run_tells_the_probe_that_it_leaves(small: Make) -> None:
    sharp, blurred = (probe_line(made_up(small(3), error)) for error in (0.0, 40.0))
    assert sharp.startswith("Strehl ratio 1.00, half of the electrons within 0.0")
    assert float(blurred.split()[2].strip(",")) < 0.9


def test_without_a_truth_the_headline_is_the_estimate_and_what_to_do(small: Make) -> None:
    known = made_up(small(3), 3.0)
    steps = [replace(step, error_nm=math.nan, in_spec=False, done=True) for step in known.steps]
    lab = replace(known, truth_nm=(), steps=tuple(steps), correction=replace(known.correction, state_nm=()))
    assert not lab.scored
    assert headline(lab) == (
        "corrected after 4 observations: C10 +1.00 ± 2.00, C12a +2.00 ± 2.00, C12b +0.00 ± 2.00 nm;"
        " in spec by the controller's stop rule"
    )
    assert probe_line(lab) == ""
    assert "C12a +2.00 ± 2.00" in render(lab)
    doubtful = replace(lab, steps=tuple(replace(step, done=False) for step in steps))
    assert "take more observations" in headline(doubtful)
    strange = replace(lab, steps=tuple(replace(step, misfit=True) for step in steps))
    assert "check the frames" in headline(strange)


def test_in_spec_beyond_the_tolerance_in_all_says_how(small: Make) -> None:
    """Three components of 9 nm are in spec, and 15.6 nm from the truth."""
    known = made_up(small(3, TEN), 9.0)
    far = replace(known, steps=tuple(replace(step, error_nm=15.6) for step in known.steps))
    assert headline(far) == (
        "in spec, every coefficient within 10 nm: 15.60 nm from the truth in all after 4 observations"
    )


def test_the_strict_verdicts_stand_beside_the_tolerance(small: Make) -> None:
    """At 14 mrad pi/4 is 2.5 nm of defocus or astigmatism: 2.2 nm are within the one and beyond the other."""
    good, fair, poor = (made_up(small(3, TEN), error) for error in (1.9, 2.2, 2.6))
    assert [strict_line(r).split(" π")[0] for r in (good, fair, poor)] == [
        "within 2 nm, within",
        "not within 2 nm, within",
        "not within 2 nm, not within",
    ]
    summary = fair.summary()
    assert (summary["in_spec"][-1], summary["within_2_nm"][-1], summary["within_pi_4"][-1]) == (True, False, True)
    assert 0.5 < summary["strehl"][-1] < 1.0
    assert summary["probe_d50_nm"] > 0.07
    head = re.findall(r"<th>(.*?)</th>", render(fair))
    assert head[8:13] == ["error (nm)", "in spec", "2 nm", "π/4", "Strehl"]


def test_saturated_frames_are_told_by_number_share_and_picture(small: Make) -> None:
    clean = made_up(small(3))
    assert saturation_line(clean) == ""
    assert "saturated" not in render(clean)
    shares = (0.0, 0.031, 0.129, 0.0)
    cut = replace(clean, steps=tuple(replace(s, saturated=v) for s, v in zip(clean.steps, shares, strict=True)))
    assert saturation_line(cut).startswith("up to 13 % of the lit pixels are saturated, in 2 of 4 frames")
    assert [f">{share} %<" in render(cut) for share in ("3.1", "13", "0.5")] == [True, True, False]
    assert cut.summary()["saturated"] == list(shares)
