import pathlib
import re

import numpy as np
import pytest

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_example_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 1
    names = {}
    exec(compile(blocks[0], str(README), "exec"), names)
    positions = np.asarray(names["selection"].positions)
    assert positions.shape[:3] == (1, 32, 1)
    assert (np.asarray(names["selection"].lengths) == 384).all()
