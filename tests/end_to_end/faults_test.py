"""What goes wrong in operation: killed workers, cancels, slow readers, a full queue, a drain."""

import contextlib
import os
import pathlib
import signal
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

import grpc

import harness
from flow_test import spec


def demo(**fields):
    from eigsvc.v1 import checkpoint_pb2
    return spec(checkpoint_pb2.CheckpointRef(name="mamba2.pt"), **fields)


def long_job():
    return demo(examples=10**6, batch_size=32)


@contextlib.contextmanager
def daemon_on_a_device_that_breaks(times):
    """A sticky CUDA error at the first forward passes, without a GPU: see broken_device.cc."""
    with tempfile.TemporaryDirectory() as directory:
        breaks, worker = pathlib.Path(directory, "breaks"), pathlib.Path(directory, "worker")
        breaks.mkdir()
        for number in range(times):
            (breaks / str(number)).touch()
        worker.write_text(f"""#!/bin/sh
exec env ASAN_OPTIONS=verify_asan_link_order=0 BROKEN_DEVICE={breaks} LD_PRELOAD={harness.options.bin / "libbroken_device.so"} \\
  {harness.options.bin / "eigsvc-worker"} "$@"
""")
        worker.chmod(0o755)
        with harness.daemon(f"--worker-binary={worker}") as daemon:
            yield daemon


@contextlib.contextmanager
def sampled_memory(daemon):
    """A list that takes what the daemon holds resident, bytes, every ten milliseconds."""
    samples, ended = [daemon.resident_bytes()], threading.Event()

    def sample():
        while not ended.wait(0.01):
            samples.append(daemon.resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        ended.set()
        sampler.join()


class FaultsTest(unittest.TestCase):
    def wait_busy(self, daemon):
        until = time.monotonic() + 30
        while daemon.worker().state != "busy":
            self.assertLess(time.monotonic(), until, daemon.read_log()[-2000:])
            time.sleep(0.01)
        time.sleep(0.3)

    def test_killed_worker_is_replaced_and_the_job_retried_once(self):
        from eigsvc.v1 import analysis_pb2
        from eigsvc.v1 import analysis_service_pb2 as rpc
        with harness.daemon() as daemon:
            pid = daemon.wait_idle().process_id
            stream = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=20000, batch_size=64)), timeout=200)
            analysis_id = next(stream).event.analysis_id
            self.wait_busy(daemon)
            os.kill(pid, signal.SIGKILL)
            *_, last = stream
            self.assertEqual(last.event.WhichOneof("event"), "result")
            record = daemon.analysis.GetAnalysis(rpc.GetAnalysisRequest(analysis_id=analysis_id)).analysis
            self.assertEqual((record.state, record.attempts), (analysis_pb2.JOB_STATE_SUCCEEDED, 2))
            worker = daemon.worker()
            self.assertEqual(worker.restart_count, 1)
            self.assertNotEqual(worker.process_id, pid)

    def test_a_sticky_cuda_error_ends_the_worker_and_the_job_is_tried_once_more(self):
        from eigsvc.v1 import analysis_pb2
        from eigsvc.v1 import analysis_service_pb2 as rpc
        for times in (1, 2):
            with self.subTest(times), daemon_on_a_device_that_breaks(times) as daemon:
                pid = daemon.wait_idle().process_id
                stream = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=64)), timeout=200)
                analysis_id = next(stream).event.analysis_id
                if times == 1:
                    *_, last = stream
                    self.assertEqual(last.event.WhichOneof("event"), "result")
                else:
                    with self.assertRaises(grpc.RpcError) as error:
                        list(stream)
                    self.assertIn("CUDA error", error.exception.details())
                record = daemon.analysis.GetAnalysis(rpc.GetAnalysisRequest(analysis_id=analysis_id)).analysis
                state = analysis_pb2.JOB_STATE_SUCCEEDED if times == 1 else analysis_pb2.JOB_STATE_FAILED
                self.assertEqual((record.state, record.attempts), (state, 2))
                worker = daemon.wait_idle()
                self.assertEqual(worker.restart_count, times)
                self.assertNotEqual(worker.process_id, pid)
                log = daemon.read_log()
                self.assertEqual(log.count("CUDA error: device-side assert triggered"), times, log)
                self.assertEqual(log.count("ended: exit 70"), times, log)

    def test_a_job_that_kills_two_workers_ends_in_a_defined_state(self):
        from eigsvc.v1 import analysis_pb2
        from eigsvc.v1 import analysis_service_pb2 as rpc
        with harness.daemon() as daemon:
            daemon.wait_idle()
            stream = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=200)
            analysis_id = next(stream).event.analysis_id
            for _ in range(2):
                self.wait_busy(daemon)
                os.kill(daemon.worker().process_id, signal.SIGKILL)
                time.sleep(0.5)
            with self.assertRaises(grpc.RpcError) as error:
                for _ in stream:
                    pass
            # As the contract has it; UNAVAILABLE is of a server that leaves, or of a job that no worker comes up for.
            self.assertEqual(error.exception.code(), grpc.StatusCode.INTERNAL, error.exception.details())
            self.assertIn("died twice", error.exception.details())
            record = daemon.analysis.GetAnalysis(rpc.GetAnalysisRequest(analysis_id=analysis_id)).analysis
            self.assertEqual((record.state, record.attempts), (analysis_pb2.JOB_STATE_FAILED, 2))
            daemon.wait_idle()
            *_, last = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=16)), timeout=60)
            self.assertEqual(last.event.WhichOneof("event"), "result")

    def test_cancel_leaves_the_device_idle_within_250_ms(self):
        """By an outside clock: the worker's own CPU time stands still from 250 ms after the cancel."""
        from eigsvc.v1 import analysis_service_pb2 as rpc
        with harness.daemon() as daemon:
            pid = daemon.wait_idle().process_id
            for _ in range(5):
                call = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=100)
                next(call)
                self.wait_busy(daemon)
                call.cancel()
                time.sleep(0.25)
                first = harness.cpu_ticks(pid)
                time.sleep(0.3)
                second = harness.cpu_ticks(pid)
                self.assertTrue(second is None or second - first <= 2, f"{second - first} ticks after the cancel")
                pid = daemon.wait_idle(20).process_id

    def test_a_cancelled_training_leaves_a_checkpoint_to_resume_from(self):
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2, model_pb2, training_pb2, analysis_pb2
        from eigsvc.v1 import training_service_pb2 as rpc
        with harness.daemon() as daemon:
            pid = daemon.wait_idle().process_id
            task = model_pb2.TaskSpec(name="mqar", parameters_json='{"vocab_size":64,"input_seq_len":32,"num_kv_pairs":4}')
            fresh = checkpoint_pb2.CheckpointRef(initializer=checkpoint_pb2.Initializer(family="mamba2", seed=1))
            call = daemon.training.Train(
                rpc.TrainRequest(spec=training_pb2.TrainingSpec(start=fresh, task=task, steps=10**6)), timeout=100)
            for response in call:
                training_id = response.event.training_id
                if response.event.progress.step > 3:
                    break
            call.cancel()
            self.assertEqual(daemon.wait_idle().process_id, pid, "the worker obeyed, so it lives")
            until = time.monotonic() + 10
            while True:
                record = daemon.training.GetTraining(rpc.GetTrainingRequest(training_id=training_id)).training
                if record.state == analysis_pb2.JOB_STATE_CANCELLED or time.monotonic() > until:
                    break
                time.sleep(0.02)
            self.assertEqual(record.state, analysis_pb2.JOB_STATE_CANCELLED)
            chunks = daemon.catalog.DownloadCheckpoint(
                catalog.DownloadCheckpointRequest(sha256=record.last_sha256), timeout=20)
            self.assertEqual(harness.sha256(b"".join(chunk.chunk for chunk in chunks)), record.last_sha256)
            last = checkpoint_pb2.CheckpointRef(sha256=record.last_sha256)
            steps = record.progress.step + 3
            *_, end = daemon.training.Train(
                rpc.TrainRequest(spec=training_pb2.TrainingSpec(start=last, task=task, steps=steps, resume=True)),
                timeout=100)
            self.assertEqual(end.event.result.steps, steps)

    def test_cancel_while_a_checkpoint_is_hashed_spares_the_worker(self):
        from eigsvc.v1 import checkpoint_pb2
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import catalog_service_pb2 as catalog
        with tempfile.TemporaryDirectory() as root:
            elements = 1 << 30  # four gibibytes of zeros that take no room on the disk
            header = b'{"zeros":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (elements, 4 * elements)
            with open(f"{root}/huge.safetensors", "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header)
                file.truncate(8 + len(header) + 4 * elements)
            with harness.daemon(f"--checkpoint-root={root}", roots=False) as daemon:
                pid = daemon.wait_idle().process_id
                huge = checkpoint_pb2.CheckpointRef(name="huge.safetensors")
                calls = [
                    lambda: daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=spec(huge, examples=4)), timeout=60),
                    lambda: daemon.catalog.InspectCheckpoint.future(
                        catalog.InspectCheckpointRequest(checkpoint=huge), timeout=60),
                    lambda: daemon.catalog.LoadModel.future(catalog.LoadModelRequest(checkpoint=huge), timeout=60)]
                for start in calls:
                    call = start()
                    time.sleep(0.4)
                    call.cancel()
                    time.sleep(0.25)
                    first = harness.cpu_ticks(pid)
                    time.sleep(0.3)
                    self.assertLessEqual(harness.cpu_ticks(pid) - first, 2)
                    self.assertEqual(daemon.wait_idle().process_id, pid)

    def test_detached_job_outlives_its_call_and_cancel_ends_it(self):
        from eigsvc.v1 import analysis_pb2
        from eigsvc.v1 import analysis_service_pb2 as rpc
        with harness.daemon() as daemon:
            daemon.wait_idle()
            call = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job(), detach=True), timeout=100)
            analysis_id = next(call).event.analysis_id
            call.cancel()
            self.wait_busy(daemon)
            self.assertEqual(daemon.worker().state, "busy")
            daemon.analysis.CancelAnalysis(rpc.CancelAnalysisRequest(analysis_id=analysis_id))
            daemon.wait_idle(5)
            record = daemon.analysis.GetAnalysis(rpc.GetAnalysisRequest(analysis_id=analysis_id)).analysis
            self.assertEqual(record.state, analysis_pb2.JOB_STATE_CANCELLED)

    def test_hundred_watchers_one_that_never_reads(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        with harness.daemon() as daemon:
            daemon.wait_idle()
            *_, last = daemon.analysis.Analyze(
                rpc.AnalyzeRequest(spec=demo(examples=2000, keep_eigenvalues=True)), timeout=200)
            kept = last.event
            self.assertGreaterEqual(kept.result.eigenvalues, 10**6)
            channels = []

            def fresh(request, name):
                """A stream on its own connection that nobody reads."""
                from eigsvc.v1 import analysis_service_pb2_grpc
                channel = grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)])
                channels.append(channel)
                return getattr(analysis_service_pb2_grpc.AnalysisServiceStub(channel), name)(request)

            finished = []

            def read(stream):
                *_, last = stream
                finished.append(last.event.WhichOneof("event"))

            with sampled_memory(daemon) as samples:
                unread = fresh(rpc.ReadEigenvaluesRequest(analysis_id=kept.analysis_id), "ReadEigenvalues")
                call = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=6000)), timeout=200)
                live = next(call).event.analysis_id
                watchers = [fresh(rpc.WatchAnalysisRequest(analysis_id=live), "WatchAnalysis") for _ in range(100)]
                threads = [threading.Thread(target=read, args=(stream,)) for stream in watchers[1:]]
                for thread in threads:
                    thread.start()
                *_, last = call
                for thread in threads:
                    thread.join(timeout=60)
                samples.append(daemon.resident_bytes())
            grown = max(samples) - samples[0]
            print(f"100 watchers: daemon grew by {grown / 2**20:.1f} MiB at most")
            self.assertEqual(finished, ["result"] * 99)
            self.assertLessEqual(grown, 64 << 20)
            for stream in (unread, watchers[0]):
                stream.cancel()
            for channel in channels:
                channel.close()

    def test_full_queue_is_refused(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        with harness.daemon("--queue-capacity=2") as daemon:
            daemon.wait_idle()
            calls = [daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=60) for _ in range(1)]
            next(calls[0])
            self.wait_busy(daemon)
            for _ in range(2):
                calls.append(daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=60))
                next(calls[-1])
            with self.assertRaises(grpc.RpcError) as error:
                list(daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=60))
            self.assertEqual(error.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn("queue", error.exception.details())
            for call in calls:
                call.cancel()
            daemon.wait_idle(10)

    def test_drain(self):
        """SIGTERM: not ready at once, still serving, then no new jobs, then out with 0."""
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        running = harness.Daemon("--lame-duck=1s", "--drain-timeout=1s")
        try:
            running.wait_idle()
            http = running.http_address
            watch = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest(service=""))
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
            stream = running.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=60)
            next(stream)
            self.wait_busy(running)
            started = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            self.assertEqual(urllib.request.urlopen(f"http://{http}/livez", timeout=5).status, 200)
            with self.assertRaises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"http://{http}/readyz", timeout=5)
            self.assertEqual(error.exception.code, 503)
            running.catalog.GetServerInfo(catalog.GetServerInfoRequest(), timeout=5)  # still served
            time.sleep(max(0.0, 1.3 - (time.monotonic() - started)))
            self.assertTrue(running.catalog.GetServerInfo(catalog.GetServerInfoRequest(), timeout=5).draining)
            with self.assertRaises(grpc.RpcError) as refused:
                list(running.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=4)), timeout=5))
            self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAVAILABLE)
            with self.assertRaises(grpc.RpcError) as ended:
                for _ in stream:
                    pass
            self.assertIn(ended.exception.code(), (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))
            self.assertEqual(running.process.wait(timeout=10), 0)
            self.assertLess(time.monotonic() - started, 6)
        finally:
            running.stop()


if __name__ == "__main__":
    harness.main()
