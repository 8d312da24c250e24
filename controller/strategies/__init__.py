"""One file, one controller; the file name is its name. Other packages add theirs as entry points of `GROUP`."""

from twin.registry import Preset

GROUP = "stemtwin.controllers"

PRESETS = {
    "vae_em_hard": Preset(
        "vae_em",
        {"hard": True},
        "vae_em with hard=true: all weight on the most likely candidate (van Hulst et al. 2026, section IV-B3).",
        fixed=("hard",),
    ),
    "vae_em_paper": Preset(
        "vae_em",
        {
            "weights": "vae_nominal_3",
            "likelihood": "gaussian",
            "design_effect": False,
            "noise": "constant",
            "offset": False,
            "day_modes": False,
            "selection": "variance",
            "refinement": {"rounds": 1, "correct_density": False, "perturb_nm": 2.0},
        },
        "vae_em with the paper's choices: as many latents as coefficients, eqs 8 and 16 to 26 (van Hulst et al. 2026).",
    ),
    "vae_fixed": Preset(
        "vae_em",
        {"model_estimation": False},
        "vae_em with model_estimation=false: the simulated latent map is taken as known (van Hulst et al. 2026, III).",
        fixed=("model_estimation",),
    ),
}
