import os
import pathlib
import subprocess
import sys

import pytest

from device_tensor import find_sim_driver


pytestmark = pytest.mark.skipif(
    find_sim_driver() is None, reason="the simulated driver is not built"
)


def run(script, *arguments):
    script = pathlib.Path(__file__).with_name(script)
    environment = {**os.environ, "KEYSIEVE_LIBCUDA": find_sim_driver()}
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_arrays_in_device_memory():
    """Steps on device arrays, streams and a captured graph are the CPU's."""
    assert "all as on the CPU" in run("on_simulated_gpu.py").stdout


@pytest.mark.parametrize("cause", ["lost", "illegal address"])
def test_a_dead_context(cause):
    """Every call raises DeviceLost at once, for ever; nothing crashes, not even at exit."""
    done = run("lost_on_simulated_gpu.py", cause)
    assert done.stdout == "lost, and said so\n"
    assert done.stderr == ""
