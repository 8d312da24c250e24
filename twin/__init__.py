"""The virtual microscope. Importing it registers the Gymnasium environments and loads nothing heavy."""

import gymnasium

from twin.state import SECOND_ORDER

MAX_OBSERVATIONS = 40
"""Steps of one episode: twice what a converged calibration takes."""

gymnasium.register(
    "stemtwin/Calibration-v0", "twin.envs.calibration:CalibrationEnv", max_episode_steps=MAX_OBSERVATIONS
)
gymnasium.register(
    "stemtwin/Calibration7D-v0",
    "twin.envs.calibration:CalibrationEnv",
    max_episode_steps=MAX_OBSERVATIONS,
    kwargs={"space": SECOND_ORDER},
)

MAX_SCAN_STEPS = 1024
"""Beyond any scan of the default plan, which ends by itself."""

gymnasium.register("stemtwin/Scan4D-v0", "twin.envs.scan:ScanEnv", max_episode_steps=MAX_SCAN_STEPS)
