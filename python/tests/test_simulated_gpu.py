import os
import pathlib
import subprocess
import sys

import pytest

from device_tensor import find_sim_driver


@pytest.mark.skipif(find_sim_driver() is None, reason="the simulated driver is not built")
def test_arrays_in_device_memory():
    """Steps on device arrays, streams and a captured graph are the CPU's."""
    script = pathlib.Path(__file__).with_name("on_simulated_gpu.py")
    environment = {**os.environ, "KEYSIEVE_LIBCUDA": find_sim_driver()}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as on the CPU" in done.stdout
