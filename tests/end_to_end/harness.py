"""A daemon as a user starts one, and a client made from the .proto files by grpcio-tools: nothing of ours on this side."""

import argparse
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import grpc
import grpc_tools
from grpc_tools import protoc

options = None  # set by main(): --bin, --source, --shared


def _generate():
    """Python modules for every .proto, made afresh in a temporary directory on sys.path."""
    directory = tempfile.mkdtemp(prefix="eigsvc-proto-")
    root = options.source / "proto"
    files = [str(path) for path in root.rglob("*.proto")]
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"  # google/protobuf/timestamp.proto and the like
    arguments = ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={directory}", f"--grpc_python_out={directory}", *files]
    if protoc.main(arguments) != 0:
        raise RuntimeError("grpcio-tools rejected the .proto files")
    sys.path.insert(0, directory)
    return directory


class Daemon:
    """eigsvcd on a free loopback port with its own state directory."""

    def __init__(self, *flags, roots=True):
        self.directory = tempfile.mkdtemp(prefix="eigsvc-e2e-")
        command = [str(options.bin / "eigsvcd"), "--devices=cpu", f"--state-dir={self.directory}/state"]
        given = {flag.split("=")[0] for flag in flags}
        defaults = ("--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--lame-duck=200ms", "--drain-timeout=5s")
        command += [flag for flag in defaults if flag.split("=")[0] not in given]
        if roots:
            command.append(f"--checkpoint-root={options.source / 'deploy' / 'demo'}")
        self.log = open(f"{self.directory}/log", "w+")
        self.process = subprocess.Popen(command + list(flags), stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        match = re.match(r"listening (\S+)", line)
        if not match:
            self.process.kill()
            raise RuntimeError(f"the daemon did not start: {line!r} {self.read_log()}")
        self.address = match.group(1)
        self.channel = grpc.insecure_channel(self.address, options=[("grpc.max_receive_message_length", 64 << 20)])
        from eigsvc.v1 import analysis_service_pb2_grpc, catalog_service_pb2_grpc, training_service_pb2_grpc
        self.analysis = analysis_service_pb2_grpc.AnalysisServiceStub(self.channel)
        self.catalog = catalog_service_pb2_grpc.CatalogServiceStub(self.channel)
        self.training = training_service_pb2_grpc.TrainingServiceStub(self.channel)

    @property
    def http_address(self):
        return "127.0.0.1:" + re.search(r"HTTP on port (\d+)", self.read_log()).group(1)

    def read_log(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def worker(self):
        from eigsvc.v1 import catalog_service_pb2
        return self.catalog.GetServerInfo(catalog_service_pb2.GetServerInfoRequest(), timeout=10).workers[0]

    def wait_idle(self, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            worker = self.worker()
            if worker.state == "idle":
                return worker
            time.sleep(0.02)
        raise AssertionError(f"the worker is not idle: {worker}; log: {self.read_log()[-3000:]}")

    def resident_bytes(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self):
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        code = self.process.returncode
        self.process.stdout.close()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        return code


@contextlib.contextmanager
def daemon(*flags, **kwargs):
    running = Daemon(*flags, **kwargs)
    try:
        yield running
    finally:
        running.stop()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_shared():
    """As tests/testing/paths.h."""
    return (options.shared / "data" / "PROVENANCE.md").exists()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def demo_checkpoint():
    return options.source / "deploy" / "demo" / "mamba2.pt"


def cpu_ticks(pid):
    """CPU time a process has used, in clock ticks; None once it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return None
    return int(fields[11]) + int(fields[12])


def main():
    global options
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    options, rest = parser.parse_known_args()
    sys.modules["harness"] = sys.modules.get("harness", sys.modules[__name__])
    sys.modules["harness"].options = options
    directory = _generate()
    try:
        result = unittest.main(module="__main__", argv=[sys.argv[0], *rest], verbosity=2, exit=False).result
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if result.skipped:  # in GoogleTest's words, which tests/run.sh counts and tests/skipped.sh looks for
        count = len(result.skipped)
        print(f"[  SKIPPED ] {count} test{'s' if count > 1 else ''}, listed below:")
        for test, reason in result.skipped:
            print(f"[  SKIPPED ] {test}: {reason}")
    sys.exit(not result.wasSuccessful())
