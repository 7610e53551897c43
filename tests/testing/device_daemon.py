"""A daemon with devices of one's choice, for what runs on a GPU machine without the end-to-end tests' environment."""

import contextlib
import pathlib
import subprocess
import tempfile
import time


@contextlib.contextmanager
def daemon(binaries, devices):
    """Its address, while it runs. RuntimeError where it ends before it listens."""
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{directory}/socket"
        process = subprocess.Popen([binaries / "eigsvcd", "--listen", address, "--http-listen", "", "--state-dir",
                                    directory + "/state", "--devices", devices], stderr=subprocess.DEVNULL)
        try:
            while not pathlib.Path(directory, "socket").exists():
                if process.poll() is not None:
                    raise RuntimeError(f"eigsvcd --devices {devices} ended with {process.returncode}")
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait()
