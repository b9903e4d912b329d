"""Preconditions: signs that a model and a dataset do not belong together, looked for before anything is trained.

Training would repair a wrong label order or a missing division by 255 as if the model were bad, and report the repair
as a success. Each module looks for one family of mistakes on the calibration rows and says what it found, with its
evidence and, where one explains the labels, the remedy.
"""

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")
