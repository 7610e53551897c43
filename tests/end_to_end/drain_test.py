"""Rolling restarts under load: two daemons, clients spread over them as the shipped one spreads, its retries, and no call fails."""

import concurrent.futures
import json
import pathlib
import re
import signal
import subprocess
import threading
import time
import unittest
import urllib.error
import urllib.request

import grpc

import harness

RESTARTS, RATE = 20, 50


def shipped_options():
    """The channel options of the command line, from its source."""
    source = (harness.options.source / "client/cli/connection.cc").read_text()
    config = json.loads(re.search(r'kServiceConfig\[\] = R"\((.*?)\)";', source, re.S).group(1))
    back_off = {name: int(re.search(rf"GRPC_ARG_{name}_RECONNECT_BACKOFF_MS, ([\d']+)", source).group(1).replace("'", ""))
                for name in ("INITIAL", "MAX")}
    return [("grpc.service_config", json.dumps(config)), ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", back_off["INITIAL"]),
            ("grpc.max_reconnect_backoff_ms", back_off["MAX"])]


class DrainTest(unittest.TestCase):
    FLAGS = ("--lame-duck=500ms", "--drain-timeout=5s")

    def start(self, port, http):
        return harness.Daemon(f"--listen=127.0.0.1:{port}", f"--http-listen=127.0.0.1:{http}", *self.FLAGS)

    def wait_ready(self, http):
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=5):
                    return
            except urllib.error.URLError:
                self.assertLess(time.monotonic(), until, "it does not become ready")
                time.sleep(0.05)

    def test_no_unary_call_fails_in_twenty_restarts(self):
        from eigsvc.v1 import analysis_service_pb2, analysis_service_pb2_grpc, catalog_service_pb2, catalog_service_pb2_grpc
        ports = [(harness.free_port(), harness.free_port()) for _ in range(2)]
        daemons = [self.start(*each) for each in ports]
        for _, http in ports:
            self.wait_ready(http)
        addresses = [f"127.0.0.1:{port}" for port, _ in ports]
        target = "ipv4:" + ",".join(addresses)
        # Each client takes the first that answers of a list that begins anywhere (client/cli/session.h).
        channels = [grpc.insecure_channel("ipv4:" + ",".join(addresses[::1 - 2 * (i % 2)]), options=shipped_options()) for i in range(8)]
        catalogs = [catalog_service_pb2_grpc.CatalogServiceStub(channel) for channel in channels]
        analyses = [analysis_service_pb2_grpc.AnalysisServiceStub(channel) for channel in channels]
        calls = [lambda i: catalogs[i].GetServerInfo(catalog_service_pb2.GetServerInfoRequest(), timeout=20),
                 lambda i: analyses[i].ListAnalyses(analysis_service_pb2.ListAnalysesRequest(), timeout=20),
                 lambda i: catalogs[i].ListLoadedModels(catalog_service_pb2.ListLoadedModelsRequest(), timeout=20)]
        done, failed, served = [0], [], set()
        stop = threading.Event()

        def call(number):
            try:
                answer = calls[number % len(calls)](number % len(channels))
                if number % len(calls) == 0:
                    served.add(answer.start_time.ToNanoseconds())
                done[0] += 1
            except grpc.RpcError as error:
                failed.append(f"{error.code()}: {error.details()}")

        def load():
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                started, number = time.monotonic(), 0
                while not stop.is_set():
                    pool.submit(call, number)
                    number += 1
                    time.sleep(max(0, started + number / RATE - time.monotonic()))

        cli = [0]

        def command_line():
            while not stop.is_set():
                ran = subprocess.run([harness.options.bin / "eigsvc", "server", "info", "--server", target], capture_output=True, text=True)
                cli[0] += 1
                if ran.returncode != 0:
                    failed.append(f"eigsvc: {ran.stderr}")
                time.sleep(0.3)

        threads = [threading.Thread(target=load), threading.Thread(target=command_line)]
        for thread in threads:
            thread.start()
        started, exits = time.monotonic(), []
        try:
            for restart in range(RESTARTS):
                which = restart % 2
                begin = time.monotonic()
                daemons[which].process.send_signal(signal.SIGTERM)
                self.assertEqual(daemons[which].process.wait(timeout=20), 0)
                exits.append(time.monotonic() - begin)
                daemons[which].stop()
                daemons[which] = self.start(*ports[which])
                self.wait_ready(ports[which][1])
                time.sleep(0.5)  # as a rollout does not take the next one down in the same breath
            seconds = time.monotonic() - started
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for channel in channels:
                channel.close()
            for each in daemons:
                each.stop()
        print(f"{done[0]} calls in {seconds:.0f} s ({done[0] / seconds:.0f} a second), {cli[0]} command lines, {len(failed)} failed; "
              f"longest exit {max(exits):.2f} s")
        self.assertEqual(failed, [])
        self.assertGreater(done[0] / seconds, 0.9 * RATE)
        self.assertGreater(cli[0], 20)
        self.assertGreaterEqual(len(served), RESTARTS, "each that was started took its part")
        self.assertLess(max(exits), 0.5 + 5 + 2)

    def test_a_connections_age_moves_a_client_and_spares_its_calls(self):
        from eigsvc.v1 import analysis_service_pb2, catalog_service_pb2
        from faults_test import demo
        with harness.daemon("--max-connection-age=1s") as daemon:
            daemon.wait_idle()
            stream = daemon.analysis.Analyze(
                analysis_service_pb2.AnalyzeRequest(spec=demo(examples=20000, batch_size=64)), timeout=200)
            next(stream)
            before = self.connections(daemon)
            seen = set(before)
            for _ in range(40):
                daemon.catalog.GetServerInfo(catalog_service_pb2.GetServerInfoRequest(), timeout=10)
                seen |= self.connections(daemon)
                time.sleep(0.1)
            self.assertGreater(len(seen), len(before), "the client came again")
            *_, last = stream
            self.assertEqual(last.event.WhichOneof("event"), "result")

    def connections(self, daemon):
        """Ports of those connected to the daemon, from the kernel."""
        port = int(daemon.address.rsplit(":", 1)[1])
        found = set()
        for table in ("tcp", "tcp6"):
            for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                local, remote, state = line.split()[1:4]
                if int(local.split(":")[1], 16) == port and state == "01":
                    found.add(remote)
        return found


if __name__ == "__main__":
    harness.main()
