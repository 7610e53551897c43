"""The whole flow through a client nobody here wrote: Python grpcio generated from the .proto files."""

import json
import math
import struct
import time
import unittest
import urllib.error
import urllib.request

import grpc

import harness


def upload_requests(request_type, name, data, chunk=1 << 18, digest=None):
    from eigsvc.v1 import catalog_service_pb2 as pb
    file = pb.UploadFile(name=name, size_bytes=len(data), sha256=digest or harness.sha256(data))
    yield request_type(manifest=pb.UploadManifest(files=[file]))
    for begin in range(0, len(data), chunk):
        yield request_type(chunk=data[begin:begin + chunk])


def spec(checkpoint, task="mqar", **fields):
    from eigsvc.v1 import analysis_pb2, model_pb2
    task_spec = model_pb2.TaskSpec(name=task, seed=fields.pop("seed", 0))
    if fields.get("examples", 0) > 3000:  # beyond the task's default test split
        task_spec.parameters_json = json.dumps({"test_examples": fields["examples"]})
    return analysis_pb2.AnalysisSpec(checkpoint=checkpoint, task=task_spec, **fields)


def misshaped(name):
    """The demo's checkpoint with the matrix `name` said to lie the other way round."""
    raw = (harness.options.source / "deploy" / "demo" / "mamba2.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    header[name]["shape"].reverse()
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + raw[8 + size:]


class FlowTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon()
        cls.daemon.wait_idle()

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        assert code == 0, f"the daemon ended with {code}"

    def test_health_and_reflection(self):
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
        health = health_pb2_grpc.HealthStub(self.daemon.channel)
        for service in ("", "eigsvc.v1.AnalysisService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=5)
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()
        with self.assertRaises(grpc.RpcError) as error:
            health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=5)
        self.assertEqual(error.exception.code(), grpc.StatusCode.NOT_FOUND)
        reflection = reflection_pb2_grpc.ServerReflectionStub(self.daemon.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        names = {s.name for s in next(reflection.ServerReflectionInfo(iter([request]))).list_services_response.service}
        for name in ("AnalysisService", "CatalogService", "TrainingService"):
            self.assertIn(f"eigsvc.v1.{name}", names)

    def test_upload_analyze_read(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2
        data = harness.demo_checkpoint().read_bytes()
        stored = self.daemon.catalog.UploadCheckpoint(upload_requests(catalog.UploadCheckpointRequest, "m.pt", data))
        self.assertEqual(stored.sha256, harness.sha256(data))
        again = self.daemon.catalog.UploadCheckpoint(upload_requests(catalog.UploadCheckpointRequest, "m.pt", data))
        self.assertTrue(again.existed)
        reference = checkpoint_pb2.CheckpointRef(sha256=stored.sha256)
        inspection = self.daemon.catalog.InspectCheckpoint(
            catalog.InspectCheckpointRequest(checkpoint=reference)).inspection
        self.assertEqual((inspection.family, inspection.format), ("mamba2", "torch-zip"))

        events = [message.event for message in self.daemon.analysis.Analyze(
            rpc.AnalyzeRequest(spec=spec(reference, examples=256, keep_eigenvalues=True)), timeout=120)]
        kinds = [event.WhichOneof("event") for event in events]
        self.assertEqual(kinds[0], "accepted")
        self.assertEqual(kinds[-1], "result")
        self.assertLess(kinds.index("model"), len(kinds) - 1)
        self.assertEqual(kinds.count("result"), 1)
        result = events[-1].result
        self.assertGreaterEqual(result.score.value, 0.98)
        self.assertEqual(result.score.n, 256)
        analysis_id = events[-1].analysis_id

        # The raw file: parsed by the published safetensors layout, compared with the streamed statistics.
        chunks = list(self.daemon.analysis.ReadEigenvalues(rpc.ReadEigenvaluesRequest(analysis_id=analysis_id)))
        raw = b"".join(message.chunk for message in chunks)
        self.assertEqual(len(raw), chunks[0].total_bytes)
        resumed = b"".join(message.chunk for message in self.daemon.analysis.ReadEigenvalues(
            rpc.ReadEigenvaluesRequest(analysis_id=analysis_id, offset_bytes=1000)))
        self.assertEqual(resumed, raw[1000:])
        (size,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8:8 + size])
        for site in result.sites:
            entry = header[f"layers.{site.site.layer}.{site.site.mixer}.log_magnitude"]
            self.assertEqual(entry["dtype"], "F32")
            rows, steps, units, each = entry["shape"]
            self.assertEqual((rows, each), (256, 1))
            begin, end = entry["data_offsets"]
            values = memoryview(raw)[8 + size + begin:8 + size + end].cast("f")
            mine = [values[i] for i in range(site.site.unit, len(values), units)]
            self.assertEqual(len(mine), site.summary.count)
            self.assertEqual(len(mine), rows * steps)
            mean = math.fsum(mine) / len(mine)
            self.assertAlmostEqual(mean, site.summary.mean, delta=1e-9 * max(1, abs(mean)))
            near = sum(abs(1 - math.exp(v)) <= 0.01 for v in mine) / len(mine)
            self.assertAlmostEqual(near, site.summary.near_1, delta=2.0 / len(mine))
            self.assertAlmostEqual(sum(site.summary.paper_bins), 1, delta=1e-12)
            median = sorted(mine)[(len(mine) + 1) // 2 - 1]
            self.assertAlmostEqual(site.summary.quantiles[3], median, delta=0.016 * abs(median) + 1e-12)

        got = self.daemon.analysis.GetAnalysis(rpc.GetAnalysisRequest(analysis_id=analysis_id)).analysis
        self.assertEqual(got.result, result)
        self.assertEqual(got.model.checkpoint_sha256, stored.sha256)
        watched = [m.event.WhichOneof("event") for m in self.daemon.analysis.WatchAnalysis(
            rpc.WatchAnalysisRequest(analysis_id=analysis_id))]
        self.assertEqual(watched[-1], "result")

    def test_named_checkpoint_twin_and_pages(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2
        names = [entry.name for entry in self.daemon.catalog.ListCheckpoints(
            catalog.ListCheckpointsRequest(page_size=1000)).checkpoints]
        self.assertIn("mamba2.pt", names)
        twin = checkpoint_pb2.CheckpointRef(name="mamba2.pt", twin_seed=7)
        results = []
        for _ in range(2):
            *_, last = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=spec(twin, examples=64)), timeout=60)
            results.append(last.event.result)
        self.assertLess(results[0].score.value, 0.2)
        self.assertEqual(results[0].sites, results[1].sites)
        seen, token = [], ""
        while True:
            page = self.daemon.analysis.ListAnalyses(rpc.ListAnalysesRequest(page_size=1, page_token=token))
            seen += [analysis.analysis_id for analysis in page.analyses]
            token = page.next_page_token
            if not token:
                break
        self.assertGreaterEqual(len(seen), 2)
        self.assertEqual(len(seen), len(set(seen)))

    def test_definition_of_the_paper(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import checkpoint_pb2
        for family, departures in (("softmax-attention", "E1 E2 E3 E4 E6 E9"), ("linear-attention", "E1 E2 E6 E7 E9"),
                                   ("norm-attention", "E1 E2 E6 E7 E9"), ("mamba2", "E1 E2 E6 E9"), ("lru", "E9 E10"),
                                   ("s4", "E8 E9 E10")):
            reference = checkpoint_pb2.CheckpointRef(
                initializer=checkpoint_pb2.Initializer(family=family, seed=3),
                settings_json=json.dumps({"layout": "paper", "vocab_size": 8192, "hidden_dim": 16, "state_dim": 8, "num_layers": 1}
                                         | ({} if family in ("lru", "s4") else {"num_heads": 2})))

            def run(**fields):
                *_, last = self.daemon.analysis.Analyze(
                    rpc.AnalyzeRequest(spec=spec(reference, examples=8, max_steps=64, **fields)), timeout=60)
                return last.event.result

            with self.subTest(family):
                own, all_made = run(), run(definition="PAPER_COMPAT")
                self.assertEqual((own.definition, list(own.departures)), ("EXACT", []))
                self.assertEqual((all_made.definition, " ".join(all_made.departures)), ("PAPER_COMPAT", departures))
                one = run(definition="PAPER_COMPAT", departures=["E9"])
                self.assertEqual(list(one.departures), ["E9"])
                if family not in ("lru", "s4"):
                    self.assertNotAlmostEqual(own.sites[0].summary.mean, all_made.sites[0].summary.mean, delta=1e-6)
                    self.assertAlmostEqual(own.sites[0].summary.mean, one.sites[0].summary.mean, delta=1e-6)
                elif family == "s4":
                    self.assertEqual([len(own.sites), len(all_made.sites)], [16, 1])
                    self.assertEqual(all_made.sites[0].summary.count, 8)

    def test_windows(self):
        """Windows side by side hold each step once: their determinants multiply to the steps' own."""
        from eigsvc.v1 import analysis_pb2, analysis_service_pb2 as rpc
        from eigsvc.v1 import checkpoint_pb2
        small = {"hidden_size": 24, "num_heads": 2, "num_hidden_layers": 1}
        paper = {"layout": "paper", "hidden_dim": 16, "state_dim": 8, "num_layers": 1}
        for family, settings in (("mamba2", paper | {"num_heads": 2}), ("softmax-attention", paper | {"num_heads": 2}),
                                 ("lstm", {"embedding_size": 8, "hidden_size": 6, "num_layers": 1}),
                                 ("delta_net", small), ("kda", small | {"head_dim": 6}), ("lru", paper)):
            reference = checkpoint_pb2.CheckpointRef(initializer=checkpoint_pb2.Initializer(family=family, seed=3),
                                                     settings_json=json.dumps(settings | {"vocab_size": 8192}))

            def run(**fields):
                *_, last = self.daemon.analysis.Analyze(
                    rpc.AnalyzeRequest(spec=spec(reference, examples=4, batch_size=2, max_steps=61, dtype="float64",
                                                 weight_by_multiplicity=True, **fields)), timeout=60)
                return last.event.result

            with self.subTest(family):
                steps, windows = run(), run(window=analysis_pb2.Window(length=12))
                self.assertFalse(steps.HasField("window"))
                self.assertEqual((windows.window.length, windows.window.stride), (12, 12))
                for a, b in zip(steps.sites, windows.sites, strict=True):
                    kept = 1 if a.constant else 12
                    self.assertEqual(a.summary.count, b.summary.count * kept)
                    total = a.summary.mean * a.summary.count * (12 // kept)
                    self.assertAlmostEqual(b.summary.mean * b.summary.count, total, delta=1e-6 * max(1, abs(total)))
                self.assertEqual(run(window=analysis_pb2.Window(length=1, stride=1)).sites, steps.sites)
        with self.assertRaises(grpc.RpcError) as caught:
            run(window=analysis_pb2.Window(length=61))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("window.length 61 is longer than the 60 steps that count", caught.exception.details())

    def test_train_and_download(self):
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2, model_pb2, training_pb2
        from eigsvc.v1 import training_service_pb2 as rpc
        start = checkpoint_pb2.CheckpointRef(
            initializer=checkpoint_pb2.Initializer(family="mamba2", seed=3),
            settings_json=json.dumps({"d_model": 16, "n_layer": 1, "d_state": 8, "headdim": 8, "vocab_size": 64}))
        task = model_pb2.TaskSpec(name="mqar", parameters_json=json.dumps(
            {"vocab_size": 64, "input_seq_len": 32, "num_kv_pairs": 2}))
        training = training_pb2.TrainingSpec(start=start, task=task, steps=20, batch_size=16, eval_every=10,
                                             eval_examples=32)
        events = [m.event for m in self.daemon.training.Train(rpc.TrainRequest(spec=training), timeout=120)]
        self.assertEqual(events[-1].WhichOneof("event"), "result")
        result = events[-1].result
        self.assertEqual(result.steps, 20)
        data = b"".join(m.chunk for m in self.daemon.catalog.DownloadCheckpoint(
            catalog.DownloadCheckpointRequest(sha256=result.best_sha256)))
        self.assertEqual(harness.sha256(data), result.best_sha256)
        inspection = self.daemon.catalog.InspectCheckpoint(catalog.InspectCheckpointRequest(
            checkpoint=checkpoint_pb2.CheckpointRef(sha256=result.best_sha256))).inspection
        self.assertEqual((inspection.family, inspection.problem), ("mamba2", ""))

    def test_a_training_is_watched_listed_and_cancelled(self):
        from eigsvc.v1 import analysis_pb2, catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2, model_pb2, training_pb2
        from eigsvc.v1 import training_service_pb2 as rpc

        def start(steps):
            """A run that outlives the call which began it."""
            training = training_pb2.TrainingSpec(
                start=checkpoint_pb2.CheckpointRef(
                    initializer=checkpoint_pb2.Initializer(family="mamba2", seed=3),
                    settings_json=json.dumps({"d_model": 16, "n_layer": 1, "d_state": 8, "headdim": 8})),
                task=model_pb2.TaskSpec(name="mqar", parameters_json=json.dumps(
                    {"vocab_size": 64, "input_seq_len": 32, "num_kv_pairs": 2})),
                steps=steps, batch_size=16, eval_every=10, eval_examples=32)
            call = self.daemon.training.Train(rpc.TrainRequest(spec=training, detach=True), timeout=60)
            first = next(call).event
            self.assertEqual(first.WhichOneof("event"), "accepted")
            call.cancel()
            return first.training_id

        def get(training_id):
            return self.daemon.training.GetTraining(rpc.GetTrainingRequest(training_id=training_id), timeout=10).training

        def watch(training_id):
            return self.daemon.training.WatchTraining(rpc.WatchTrainingRequest(training_id=training_id), timeout=100)

        short = start(20)
        events = [message.event for message in watch(short)]
        kinds = [event.WhichOneof("event") for event in events]
        self.assertEqual((kinds[0], kinds[-1], kinds.count("model")), ("accepted", "result", 1))
        self.assertEqual({event.training_id for event in events}, {short})
        self.assertEqual(get(short).state, analysis_pb2.JOB_STATE_SUCCEEDED)
        self.assertEqual(get(short).result, events[-1].result)
        # Who comes late is told the end all the same.
        self.assertEqual([message.event.WhichOneof("event") for message in watch(short)], ["accepted", "model", "result"])

        long, seen = start(10**6), None
        watching = watch(long)
        for message in watching:
            progress = message.event.progress
            if message.event.HasField("progress") and progress.HasField("score"):
                seen = progress
                break
        self.assertEqual((seen.steps, seen.step > 0, seen.score.n), (10**6, True, 32))
        self.assertTrue(math.isfinite(seen.loss))
        self.assertGreater(len(seen.sites), 0)
        running = get(long)
        self.assertEqual((running.state, running.spec.steps), (analysis_pb2.JOB_STATE_RUNNING, 10**6))
        self.assertGreaterEqual(running.progress.step, seen.step)

        listed, token = [], ""
        while True:
            page = self.daemon.training.ListTrainings(rpc.ListTrainingsRequest(page_size=1, page_token=token), timeout=10)
            listed += page.trainings
            token = page.next_page_token
            if not token:
                break
        ids = [training.training_id for training in listed]
        self.assertEqual((ids[0], ids[1], len(ids)), (long, short, len(set(ids))))
        self.assertEqual([len(listed[0].progress.sites), len(listed[1].result.sites)], [0, 0])

        cancelled = self.daemon.training.CancelTraining(rpc.CancelTrainingRequest(training_id=long), timeout=10).training
        self.assertEqual(cancelled.training_id, long)
        with self.assertRaises(grpc.RpcError) as error:
            list(watching)
        self.assertEqual(error.exception.code(), grpc.StatusCode.CANCELLED)
        ended = get(long)
        self.assertEqual((ended.state, ended.error.code), (analysis_pb2.JOB_STATE_CANCELLED, grpc.StatusCode.CANCELLED.value[0]))
        data = b"".join(message.chunk for message in self.daemon.catalog.DownloadCheckpoint(
            catalog.DownloadCheckpointRequest(sha256=ended.last_sha256), timeout=10))
        self.assertEqual(harness.sha256(data), ended.last_sha256)
        # One that is over stays as it is, and one that never was is told so.
        self.daemon.training.CancelTraining(rpc.CancelTrainingRequest(training_id=short), timeout=10)
        self.assertEqual(get(short).state, analysis_pb2.JOB_STATE_SUCCEEDED)
        for call, request in ((self.daemon.training.GetTraining, rpc.GetTrainingRequest),
                              (self.daemon.training.CancelTraining, rpc.CancelTrainingRequest)):
            for training_id, code in (("tr-0", grpc.StatusCode.NOT_FOUND), ("", grpc.StatusCode.INVALID_ARGUMENT)):
                with self.assertRaises(grpc.RpcError) as error:
                    call(request(training_id=training_id), timeout=10)
                self.assertEqual(error.exception.code(), code)

    def test_what_there_is_and_data_to_run_on(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2
        models = {model.name: model for model in self.daemon.catalog.ListModels(catalog.ListModelsRequest(), timeout=30).models}
        self.assertLessEqual({"mamba2", "llama", "gpt2", "softmax-attention"}, set(models))
        self.assertTrue(models["mamba2"].trainable)
        tasks = {task.name: task for task in self.daemon.catalog.ListTasks(catalog.ListTasksRequest(), timeout=30).tasks}
        self.assertEqual((tasks["mqar"].needs_data, tasks["next-token"].needs_data), (False, True))
        self.assertIn("num_kv_pairs", {parameter.name for parameter in tasks["mqar"].parameters})

        ids = " ".join(str(7 * i % 64) for i in range(600)).encode()
        stored = self.daemon.catalog.UploadData(upload_requests(catalog.UploadDataRequest, "ids.txt", ids), timeout=30)
        self.assertEqual((stored.sha256, stored.existed), (harness.sha256(ids), False))
        request = spec(checkpoint_pb2.CheckpointRef(name="mamba2.pt"), task="next-token")
        request.task.data.sha256 = stored.sha256
        request.task.parameters_json = json.dumps({"block_length": 100})
        *_, last = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=request), timeout=60)
        result = last.event.result
        self.assertEqual((result.examples, result.score.metric, result.score.n), (6, "perplexity", 6 * 99))

    def test_http(self):
        base = f"http://{self.daemon.http_address}"
        for path in ("/livez", "/readyz"):
            self.assertEqual(urllib.request.urlopen(base + path, timeout=5).status, 200)
        answer = urllib.request.urlopen(base + "/metrics", timeout=5)
        self.assertTrue(answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        text = answer.read().decode()
        for family in ("eigsvc_rpcs_total", "eigsvc_job_queue_depth", "eigsvc_worker_up", "process_resident_memory_bytes"):
            self.assertIn(f"# TYPE {family} ", text)
        with self.assertRaises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(base + "/nothing", timeout=5)
        self.assertEqual(error.exception.code, 404)

    def test_bad_requests(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2
        code = grpc.StatusCode
        demo = checkpoint_pb2.CheckpointRef(name="mamba2.pt")

        def ref(**fields):
            return checkpoint_pb2.CheckpointRef(**fields)

        settings = ref(name="mamba2.pt", settings_json="{not json")
        cases = [
            (spec(ref(name="nothing.pt")), code.NOT_FOUND, "mamba2.pt"),
            (spec(ref(name="../demo/mamba2.pt")), code.INVALID_ARGUMENT, ".."),
            (spec(ref(name="/etc/passwd")), code.INVALID_ARGUMENT, "relative"),
            (spec(ref(local_path="/etc/passwd")), code.PERMISSION_DENIED, "upload"),
            (spec(ref(sha256="0" * 64)), code.NOT_FOUND, "0000"),
            (spec(ref(sha256="xyz")), code.INVALID_ARGUMENT, "64"),
            (spec(ref()), code.INVALID_ARGUMENT, "checkpoint"),
            (spec(demo, task="mqra"), code.NOT_FOUND, "mqar"),
            (spec(demo, dtype="float8"), code.INVALID_ARGUMENT, "float32"),
            (spec(demo, device="cuda:9"), code.NOT_FOUND, "cpu"),
            (spec(demo, examples=-1), code.INVALID_ARGUMENT, "examples"),
            (spec(demo, examples=10**11), code.INVALID_ARGUMENT, "examples"),
            (spec(demo, batch_size=10**9), code.INVALID_ARGUMENT, "batch_size"),
            (spec(settings), code.INVALID_ARGUMENT, "JSON"),
            (spec(demo, definition="PAPER_COMPAT"), code.INVALID_ARGUMENT, "softmax-attention, linear-attention"),
            (spec(demo, departures=["E1"]), code.INVALID_ARGUMENT, "PAPER_COMPAT"),
            (spec(ref(initializer=checkpoint_pb2.Initializer(family="mamba3"))), code.NOT_FOUND, "mamba2"),
        ]
        for request, expected, text in cases:
            with self.subTest(str(request)), self.assertRaises(grpc.RpcError) as error:
                list(self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=request), timeout=30))
            self.assertEqual(error.exception.code(), expected, error.exception.details())
            self.assertIn(text, error.exception.details())
        with self.assertRaises(grpc.RpcError) as error:
            self.daemon.catalog.UploadCheckpoint(
                upload_requests(catalog.UploadCheckpointRequest, "m.pt", b"abc", digest="0" * 64))
        self.assertEqual(error.exception.code(), code.INVALID_ARGUMENT)
        with self.assertRaises(grpc.RpcError) as error:
            self.daemon.analysis.ListAnalyses(rpc.ListAnalysesRequest(page_token="bogus"))
        self.assertEqual(error.exception.code(), code.INVALID_ARGUMENT)

    def test_damaged_checkpoints(self):
        """Truncated, bit-flipped, mis-shaped and hostile uploads: a status each, and the daemon serves on."""
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import catalog_service_pb2 as catalog
        from eigsvc.v1 import checkpoint_pb2
        data = harness.demo_checkpoint().read_bytes()
        evil = b"\x80\x02cos\nsystem\nX\x0a\x00\x00\x00touch /bad\x85R."
        damaged = {"truncated.pt": data[:len(data) // 2], "empty.pt": b"", "noise.pt": bytes(range(256)) * 64,
                   "pickle.pt": evil, "flipped.pt": data[:100] + bytes([data[100] ^ 1]) + data[101:],
                   "misshaped.safetensors": misshaped("backbone.layers.0.mixer.out_proj.weight")}
        for name, content in damaged.items():
            with self.subTest(name), self.assertRaises(grpc.RpcError) as error:
                stored = self.daemon.catalog.UploadCheckpoint(
                    upload_requests(catalog.UploadCheckpointRequest, name, content))
                list(self.daemon.analysis.Analyze(rpc.AnalyzeRequest(
                    spec=spec(checkpoint_pb2.CheckpointRef(sha256=stored.sha256), examples=4)), timeout=60))
            self.assertIn(error.exception.code(), (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DATA_LOSS,
                                                   grpc.StatusCode.FAILED_PRECONDITION), error.exception.details())
            if name.startswith("misshaped"):
                self.assertIn("backbone.layers.0.mixer.out_proj.weight", error.exception.details())
        before = self.daemon.worker()
        self.assertEqual(before.restart_count, 0, "a damaged file must not cost the worker")

    def test_deadline(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        from eigsvc.v1 import checkpoint_pb2
        demo = checkpoint_pb2.CheckpointRef(name="mamba2.pt")
        started = time.monotonic()
        with self.assertRaises(grpc.RpcError) as error:
            list(self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=spec(demo, examples=10**6, batch_size=32)),
                                              timeout=0.5))
        self.assertEqual(error.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - started, 2)
        self.daemon.wait_idle(5)


if __name__ == "__main__":
    harness.main()
