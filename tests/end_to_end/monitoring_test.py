"""What operators see: a real daemon with analyses and a training under Debian's Prometheus. Every panel, rule and alert
returns what it should, every exported family is on a dashboard or in an alert, and what goes wrong shows."""

import json
import math
import os
import re
import signal
import subprocess
import time
import unittest
import urllib.request

import grpc
import numpy
import safetensors.numpy
import yaml

import harness
from faults_test import demo, long_job
from prometheus import Prometheus

# Expressions that return nothing in a healthy daemon of a minute, and why.
EMPTY = {
    "eigsvc:spectrum_near_one_ratio:delta1d": "there is no yesterday",
    "eigsvc:rpc_errors:ratio_rate5m": "no RPC has ended in one of these codes, so its counter is not there",
}
HISTOGRAM_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def fill(expr):
    expr = expr.replace("$__rate_interval", "20s")
    return re.sub(r"\$\{?\w+\}?", ".+", expr)


def panel_expressions():
    for path in sorted((harness.options.source / "deploy/grafana/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                inside = variable["query"]["query"].removeprefix("label_values(").rsplit(",", 1)[0]
                yield f"{path.stem}, ${variable['name']}", fill(inside)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}, {panel['title']}", fill(target["expr"])


def rules():
    file = yaml.safe_load((harness.options.source / "deploy/prometheus/rules.yml").read_text())
    return [rule for group in file["groups"] for rule in group["rules"]]


class MonitoringTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.http = f"127.0.0.1:{harness.free_port()}"
        cls.daemon = cls.start_daemon()
        cls.prometheus = Prometheus(cls.http)

    @classmethod
    def start_daemon(cls, *flags):
        daemon = harness.Daemon(f"--http-listen={cls.http}", *flags)
        daemon.wait_idle()
        return daemon

    @classmethod
    def tearDownClass(cls):
        cls.prometheus.stop()
        cls.daemon.stop()

    def scrape(self):
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def analyze(self, spec):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        *_, last = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=spec), timeout=200)
        return last.event

    def train(self, **fields):
        """A training that goes on until it is cancelled; past its first evaluation."""
        from eigsvc.v1 import checkpoint_pb2, model_pb2, training_pb2
        from eigsvc.v1 import training_service_pb2 as rpc
        task = model_pb2.TaskSpec(name="mqar", parameters_json='{"vocab_size":64,"input_seq_len":32,"num_kv_pairs":4}')
        fresh = checkpoint_pb2.CheckpointRef(initializer=checkpoint_pb2.Initializer(family="mamba2", seed=1))
        call = self.daemon.training.Train(rpc.TrainRequest(spec=training_pb2.TrainingSpec(
            start=fresh, task=task, steps=10**6, eval_every=5, eval_examples=32, **fields)), timeout=300)
        for response in call:
            if response.event.progress.score_step > 0:
                return call, response.event.progress
        raise AssertionError("the training ended")

    def firing(self):
        return {rule["alert"] for rule in rules() if "alert" in rule and self.prometheus.query(rule["expr"])}

    def value(self, expr):
        found = self.prometheus.query(expr)
        self.assertEqual(len(found), 1, f"{expr}: {found}")
        return found[0][1]

    def expect(self, expr, check, seconds=20):
        self.prometheus.wait(lambda: any(check(value) for _, value in self.prometheus.query(expr)), seconds)

    # In this order: the later ones kill what the earlier ones look at.

    def test_1_everything_shown_returns_what_it_should(self):
        from eigsvc.v1 import analysis_pb2, analysis_service_pb2 as rpc
        spec = demo(examples=64, keep_eigenvalues=True)
        event = self.analyze(spec)
        twin = demo(examples=64)
        twin.checkpoint.twin_seed = 1
        twin_event = self.analyze(twin)
        with self.assertRaises(grpc.RpcError):
            wrong = demo(examples=4)
            wrong.task.name = "no-such-task"
            self.analyze(wrong)
        cancelled = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=100)
        next(cancelled)
        time.sleep(1)
        cancelled.cancel()
        self.daemon.wait_idle(30)
        call, progress = self.train()
        for expr in ("eigsvc_training_score", 'eigsvc_spectrum_radius{model="twin:mamba2.pt"}', "eigsvc_training_spectrum_radius"):
            self.expect(expr, lambda value: True)
        time.sleep(6)  # enough scrapes for every rate

        with self.subTest("panels"):
            for name, expr in panel_expressions():
                found = self.prometheus.query(expr)
                self.assertTrue(found, f"{name}: nothing for {expr}")
        with self.subTest("rules"):
            for group in self.prometheus.get("/api/v1/rules")["groups"]:
                for rule in group["rules"]:
                    self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])
            for rule in rules():
                if "record" in rule:
                    found = self.prometheus.query(rule["record"])
                    self.assertEqual(bool(found), rule["record"] not in EMPTY, rule["record"])
        with self.subTest("no alert of a healthy daemon"):
            self.assertEqual(self.firing(), set())

        with self.subTest("every family is shown, everything shown is exported"):
            text = self.scrape()
            exported = set(re.findall(r"^# TYPE (\S+)", text, re.M))
            shown = set()
            for expr in [expr for _, expr in panel_expressions()] + [rule["expr"] for rule in rules()]:
                for name in re.findall(r"\b(?:eigsvc|process)_[a-z0-9_]+", expr):
                    stem = HISTOGRAM_SUFFIX.sub("", name)
                    shown.add(name if name in exported else stem)
            self.assertEqual(exported - shown, set(), "exported and nowhere shown")
            self.assertEqual(shown - exported, set(), "shown and not exported")

        with self.subTest("numbers of the analysis"):
            self.check_analysis(event, twin_event)
        with self.subTest("numbers of the training"):
            labels = '{model="mamba2",task="mqar"}'
            self.assertGreaterEqual(self.value(f"eigsvc_training_step{labels}"), progress.step)
            self.assertEqual(self.value(f"eigsvc_training_steps{labels}"), 10**6)
            self.assertTrue(0 < self.value(f"eigsvc_training_loss{labels}") < 2 * math.log(64))
            self.assertLess(self.value(f"eigsvc_training_spectrum_radius{labels}"), 1)
        call.cancel()
        self.daemon.wait_idle(30)
        with self.subTest("a training's series end with it"):
            self.prometheus.wait(lambda: "eigsvc_training_step{" not in self.scrape(), 5)

    def check_analysis(self, event, twin):
        """Prometheus' numbers against the exported eigenvalues, counted here."""
        from eigsvc.v1 import analysis_service_pb2 as rpc
        chunks = self.daemon.analysis.ReadEigenvalues(rpc.ReadEigenvaluesRequest(analysis_id=event.analysis_id), timeout=60)
        tensors = safetensors.numpy.load(b"".join(chunk.chunk for chunk in chunks))
        logs = []
        for name, values in tensors.items():
            if name.endswith(".log_magnitude"):
                for row, length in enumerate(tensors["lengths"]):
                    logs.append(values[row, :length - 1].astype(numpy.float64).ravel())
        logs = numpy.concatenate(logs)
        labels = '{model="mamba2.pt",task="mqar"}'
        self.assertEqual(self.value(f"eigsvc_spectrum_eigenvalues{labels}"), len(logs))
        self.assertEqual(event.result.eigenvalues, len(logs))
        self.assertAlmostEqual(self.value(f"eigsvc_spectrum_radius{labels}"), math.exp(logs.max()), places=6)
        modulus = numpy.exp(logs)
        near_1 = (numpy.abs(1 - modulus) <= 0.01).mean()
        self.assertAlmostEqual(self.value(f"eigsvc_spectrum_near_one_ratio{labels}"), near_1, delta=2 / len(logs))
        self.assertAlmostEqual(self.value(f"eigsvc_spectrum_near_zero_ratio{labels}"), (modulus <= 0.1).mean(), places=9)
        self.assertEqual(self.value(f"eigsvc_spectrum_nonfinite_eigenvalues{labels}"), 0)
        self.assertEqual(self.value('eigsvc_task_score{model="mamba2.pt",task="mqar",metric="accuracy"}'), event.result.score.value)
        timescale = -1 / logs
        for exponent in range(-2, 21):  # octaves are edges of the bins, so these counts are exact
            counted = self.value(f'eigsvc_spectrum_timescale_steps_bucket{{model="mamba2.pt",le="{2.0 ** exponent:.10g}"}}')
            self.assertEqual(counted, numpy.count_nonzero(timescale <= 2.0 ** exponent), exponent)
        median = numpy.sort(timescale)[math.ceil(len(logs) / 2) - 1]
        self.assertAlmostEqual(self.value('eigsvc_spectrum_timescale_quantile_steps{model="mamba2.pt",stat="p50"}') / median, 1, delta=0.016)
        self.assertNotEqual(self.value(f"eigsvc_spectrum_near_one_ratio{labels}"),
                            self.value('eigsvc_spectrum_near_one_ratio{model="twin:mamba2.pt"}'))
        self.assertEqual(twin.result.eigenvalues, len(logs))

    def test_2_both_formats_lint_and_a_scrape_touches_nothing(self):
        said = subprocess.run(["promtool", "check", "metrics"], input=self.scrape(), capture_output=True, text=True)
        self.assertEqual((said.returncode, said.stdout, said.stderr), (0, "", ""))
        request = urllib.request.Request(f"http://{self.http}/metrics", headers={"Accept": "application/openmetrics-text"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            self.assertEqual(answer.headers["Content-Type"], "application/openmetrics-text; version=1.0.0; charset=utf-8")
            self.assertTrue(answer.read().endswith(b"# EOF\n"))
        from eigsvc.v1 import catalog_service_pb2 as catalog

        def loaded():
            models = self.daemon.catalog.ListLoadedModels(catalog.ListLoadedModelsRequest(), timeout=10).models
            return [(m.model_id, m.last_use_time.seconds, m.last_use_time.nanos) for m in models]
        before = loaded()
        for _ in range(200):
            self.scrape()
        self.assertEqual(loaded(), before)

    def test_3_an_unloaded_model_is_gone_from_the_metrics(self):
        from eigsvc.v1 import catalog_service_pb2 as catalog
        self.analyze(demo(examples=8))
        self.assertIn('eigsvc_spectrum_radius{model="mamba2.pt"', self.scrape())
        models = self.daemon.catalog.ListLoadedModels(catalog.ListLoadedModelsRequest(), timeout=10).models
        (model_id,) = [m.model_id for m in models if m.model.checkpoint_sha256 and not m.model.HasField("initial_seed")]
        self.daemon.catalog.UnloadModel(catalog.UnloadModelRequest(model_id=model_id), timeout=10)
        text = self.scrape()
        self.assertNotIn('{model="mamba2.pt"', text)
        self.assertIn('{model="twin:mamba2.pt"', text)

    def test_4_killed_workers_show(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        stream = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=20000, batch_size=64)), timeout=200)
        next(stream)
        while self.daemon.worker().state != "busy":
            time.sleep(0.01)
        os.kill(self.daemon.worker().process_id, signal.SIGKILL)
        for _ in stream:
            pass
        self.expect('increase(eigsvc_job_retries_total{kind="analysis"}[1m])', lambda value: value > 0)
        self.assertNotIn('{model="twin:mamba2.pt"', self.scrape(), "the pool went with the process")
        self.expect("sum(eigsvc_worker_restarts_total)", lambda value: value >= 1)
        before = self.value("sum(eigsvc_worker_restarts_total)")
        for kills in range(1, 5):  # a short absence may fall between two scrapes, its count does not
            os.kill(self.daemon.wait_idle(60).process_id, signal.SIGKILL)
            self.expect("sum(eigsvc_worker_restarts_total)", lambda value: value >= before + kills)
        self.expect("min_over_time(eigsvc_worker_up[1m])", lambda value: value == 0)
        self.prometheus.wait(lambda: "EigsvcWorkerCrashLoop" in self.firing())
        self.daemon.wait_idle(60)
        self.expect("eigsvc_worker_up", lambda value: value == 1)
        self.assertEqual(self.value("eigsvc_ready"), 1)

    def test_5_a_drain_shows_and_ends(self):
        type(self).daemon.stop()
        type(self).daemon = self.start_daemon("--lame-duck=4s")
        self.expect("eigsvc_ready", lambda value: value == 1)
        self.daemon.process.send_signal(signal.SIGTERM)
        self.expect("eigsvc_draining", lambda value: value == 1, 4)
        self.assertEqual(self.value("eigsvc_ready"), 0)
        self.assertIn("EigsvcDrainStuck", self.firing())
        self.assertNotIn("EigsvcNotReady", self.firing())
        self.assertEqual(self.daemon.process.wait(timeout=20), 0)
        self.prometheus.wait(lambda: "EigsvcDown" in self.firing())

    def test_6_a_killed_daemon_shows_and_comes_back(self):
        type(self).daemon.stop()
        type(self).daemon = self.start_daemon()
        self.expect("eigsvc_ready", lambda value: value == 1)
        self.assertNotIn("EigsvcDown", self.firing())
        started = self.value("process_start_time_seconds")
        os.kill(self.daemon.process.pid, signal.SIGKILL)
        self.prometheus.wait(lambda: "EigsvcDown" in self.firing())
        self.prometheus.wait(lambda: not self.prometheus.query("eigsvc_ready"))
        type(self).daemon.stop()
        type(self).daemon = self.start_daemon()
        self.expect("process_start_time_seconds", lambda value: value > started)
        self.prometheus.wait(lambda: "EigsvcRestarted" in self.firing())


if __name__ == "__main__":
    harness.main()
