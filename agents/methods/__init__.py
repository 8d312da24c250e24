"""Reconstruction methods: each file is an agent, found by its name; each preset is another name of one."""

from twin.registry import Preset

GROUP = "stemtwin.agents"

RINGS = {
    "bf": "Bright field: electrons within the aperture's disc.",
    "abf": "Annular bright field: the outer half of the disc; atoms, light ones too, are dark.",
    "adf": "Annular dark field: electrons scattered beyond the disc, to 4.5 times the convergence angle.",
    "haadf": "High-angle annular dark field: 4.5 to 9.5 times the convergence angle; heavy atoms are bright.",
}
PRESETS = {name: Preset("detectors._ring", {"layout": name}, summary, ("layout",)) for name, summary in RINGS.items()}
