"""Three short simulated recordings that come with the package.

Each is a video beside a CSV of the current and a CSV of labels, as RecordingFiles
reads them: 20 minutes of one simulated furnace, whose current is about 240 s ahead.
scripts/make_sample.py makes them.
"""

from __future__ import annotations

import pathlib

FOLDER = pathlib.Path(__file__).parent / "sample_recordings"


def sample() -> pathlib.Path:
    """Returns the folder of the sample: furnace_1, 2 and 3, as .mp4 beside .csv.

    The recordings are simulated: they show how things work, not how well.
    """
    return FOLDER
