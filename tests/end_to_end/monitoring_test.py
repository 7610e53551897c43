"""What operators see: a real daemon with analyses and a training under Debian's Prometheus. Every panel, rule and alert
returns what it should, every exported family is on a dashboard or in an alert, and what goes wrong shows."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

import grpc
import numpy
import safetensors.numpy
import yaml

import harness
from expectations import WINDOW, Samples, Truth, added, alerts, differences, labels, records, service, spectra
from faults_test import demo, long_job
from heatmap import cells, picture, shades
from plane_test import read_png
from prometheus import Prometheus

HISTOGRAM_SUFFIX = re.compile(r"_(bucket|sum|count)$")
HEATMAPS = {"Timescale of memory": "timescale_steps", "Modulus": "modulus", "Phase": "phase_radians"}
CHAINED = {"EigsvcDeviceMemoryLow", "EigsvcJobsFailing", "EigsvcQueueWaitLong", "EigsvcRpcErrors"}
SMALL_MQAR = '{"vocab_size":64,"input_seq_len":32,"num_kv_pairs":4}'


def fill(expr):
    expr = expr.replace("$__rate_interval", f"{WINDOW}s")
    return re.sub(r"\$\{?\w+\}?", ".+", expr)


def dashboards():
    """By dashboard and title: the expressions of each panel and variable, as Grafana sends them."""
    found = {}
    for path in sorted((harness.options.source / "deploy/grafana/dashboards").glob("*.json")):
        dashboard, shown = json.loads(path.read_text()), found.setdefault(path.stem, {})
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                shown[f"${variable['name']}"] = [fill(variable["query"]["query"].removeprefix("label_values(").rsplit(",", 1)[0])]
        for panel in dashboard["panels"]:
            if panel.get("targets"):
                assert panel["title"] not in shown, f"two panels are {panel['title']}"
                shown[panel["title"]] = [fill(target["expr"]) for target in panel["targets"]]
    return found


def rules():
    file = yaml.safe_load((harness.options.source / "deploy/prometheus/rules.yml").read_text())
    return [rule for group in file["groups"] for rule in group["rules"]]


def damaged_checkpoints(directory):
    """Beside the demo's: one whose second layer multiplies 0 by infinity, one with a NaN among its weights."""
    shutil.copy(harness.demo_checkpoint(), directory)
    weights = safetensors.numpy.load_file(harness.options.source / "deploy/demo/mamba2.safetensors")
    weights["backbone.layers.1.mixer.A_log"][2], weights["backbone.layers.1.mixer.dt_bias"][2] = 200, -1e4
    safetensors.numpy.save_file(weights, f"{directory}/overflowing.safetensors")
    weights["backbone.layers.1.mixer.A_log"][2] = numpy.nan
    safetensors.numpy.save_file(weights, f"{directory}/damaged.safetensors")


class MonitoringTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.http = f"127.0.0.1:{harness.free_port()}"
        cls.root = tempfile.TemporaryDirectory(prefix="eigsvc-checkpoints-")
        damaged_checkpoints(cls.root.name)
        cls.daemon = cls.start_daemon()
        cls.prometheus = Prometheus(cls.http)

    @classmethod
    def start_daemon(cls, *flags):
        daemon = harness.Daemon(f"--http-listen={cls.http}", f"--checkpoint-root={cls.root.name}", *flags, roots=False)
        daemon.wait_idle()
        return daemon

    @classmethod
    def tearDownClass(cls):
        cls.prometheus.stop()
        cls.daemon.stop()
        cls.root.cleanup()

    def scrape(self):
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def analyze(self, spec):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        *_, last = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=spec), timeout=200)
        return last.event

    def scrapes(self, count=3):
        """Waits for so many more scrapes, and for their rules: a counter's first value is no increase."""
        seen = time.time()
        self.prometheus.wait(lambda: any(value > seen for _, value in self.prometheus.query("timestamp(eigsvc_ready)")))
        time.sleep(0.5 * (count - 1))

    def truth(self, spec):
        """An analysis, and what its exported eigenvalues say."""
        from eigsvc.v1 import analysis_service_pb2 as rpc
        before = time.time()
        event = self.analyze(spec)
        computed = (before - 0.01, time.time() + 0.01)
        chunks = self.daemon.analysis.ReadEigenvalues(rpc.ReadEigenvaluesRequest(analysis_id=event.analysis_id), timeout=60)
        tensors = safetensors.numpy.load(b"".join(chunk.chunk for chunk in chunks))
        logs, phases, floors = [], [], []
        for name, values in tensors.items():
            if not name.endswith(".log_magnitude"):
                continue
            floor = tensors[name.replace(".log_magnitude", ".noise_floor")]
            if name.replace(".log_magnitude", ".phase") in tensors:  # RetNet: for all examples, one of each conjugate pair
                turns = tensors[name.replace(".log_magnitude", ".phase")].ravel()
                logs.append(numpy.tile(values.ravel(), 2))
                phases += [turns, -turns]
                floors.append(numpy.full(2 * values.size, floor))
                continue
            for row, length in enumerate(tensors["lengths"]):
                logs.append(values[row, :length - 1].astype(numpy.float64).ravel())
                phases.append(numpy.zeros(logs[-1].size))
                floors.append(numpy.full(logs[-1].size, floor[row]))
        return Truth(*map(numpy.concatenate, (logs, phases, floors)), event.result.score.value, computed)

    def train(self, **fields):
        """A training of a few steps, or one that goes on until it is cancelled; its stream."""
        from eigsvc.v1 import checkpoint_pb2, model_pb2, training_pb2
        from eigsvc.v1 import training_service_pb2 as rpc
        task = model_pb2.TaskSpec(name="mqar", parameters_json=SMALL_MQAR)
        fresh = checkpoint_pb2.CheckpointRef(initializer=checkpoint_pb2.Initializer(family="mamba2", seed=1))
        spec = training_pb2.TrainingSpec(start=fresh, task=task, eval_examples=32, **fields)
        return self.daemon.training.Train(rpc.TrainRequest(spec=spec), timeout=300)

    def firing(self):
        return {rule["alert"] for rule in rules() if "alert" in rule and self.prometheus.query(rule["expr"])}

    def holds(self, name, expr, expected, at=None):
        with self.subTest(name):
            said = differences(expected, self.prometheus.query(expr, at))
            self.assertEqual(said, [], expr)

    def value(self, expr):
        found = self.prometheus.query(expr)
        self.assertEqual(len(found), 1, f"{expr}: {found}")
        return found[0][1]

    def expect(self, expr, check, seconds=20):
        self.prometheus.wait(lambda: any(check(value) for _, value in self.prometheus.query(expr)), seconds)

    # In this order: the later ones kill what the earlier ones look at.

    def test_1_everything_shown_returns_what_it_should(self):
        """A known history: five models analysed, one of them twice; requests and jobs that fail; trainings that end and one
        that runs, behind which a job waits."""
        from eigsvc.v1 import analysis_service_pb2 as rpc, checkpoint_pb2
        from flow_test import spec

        def named(name, **fields):
            return spec(checkpoint_pb2.CheckpointRef(name=name, settings_json='{"ngroups":1}'), examples=8, **fields)

        def untrained(family, **fields):
            fresh = checkpoint_pb2.CheckpointRef(initializer=checkpoint_pb2.Initializer(family=family, seed=1))
            return spec(fresh, examples=8, keep_eigenvalues=True, **fields)
        twin = demo(examples=64, keep_eigenvalues=True)
        twin.checkpoint.twin_seed = 1
        analyses = {"mamba2.pt": demo(examples=64, keep_eigenvalues=True), "twin:mamba2.pt": twin,
                    "untrained:retnet": untrained("retnet", rotation="state"), "untrained:zamba2": untrained("zamba2")}
        started, truths, moments = time.time(), {}, []
        for model, what in [("mamba2.pt", demo(examples=16, keep_eigenvalues=True)), *analyses.items()]:
            truths[model] = self.truth(what)
            self.scrapes()
            moments.append((time.time(), dict(truths)))
            for _ in self.train(steps=6, eval_every=3):
                pass
        with self.subTest("no alert of a healthy daemon"):
            self.assertEqual(self.firing(), set())
        overflowing = named("overflowing.safetensors", keep_eigenvalues=True)
        overflowing.task.parameters_json = SMALL_MQAR
        truths["overflowing.safetensors"] = self.truth(overflowing)
        damaged = named("damaged.safetensors")
        damaged.task.parameters_json = SMALL_MQAR
        wrong = demo(examples=4)
        wrong.task.name = "no-such-task"
        for refused in [damaged, wrong] * 3:
            with self.assertRaises(grpc.RpcError):
                self.analyze(refused)
            self.scrapes()
        for _ in range(3):
            cancelled = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=long_job()), timeout=100)
            next(cancelled)
            time.sleep(1)
            cancelled.cancel()
            self.daemon.wait_idle(30)
        call, progresses = self.train(steps=10**6, eval_every=5), []
        reader = threading.Thread(target=self.read_progress, args=(call, progresses))
        reader.start()
        self.expect("eigsvc_training_score", lambda value: True)
        waiting = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=8)), timeout=200)
        next(waiting)
        self.scrapes(4)

        at = round(time.time() - 0.3, 3)  # Prometheus counts in milliseconds
        samples = Samples(self.prometheus, at)
        run = self.training_run(samples, progresses)
        moments.append((at, dict(truths)))
        self.check_counters(samples)
        expected = spectra(truths, run, at) | {"eigsvc-service": service(samples)}
        shown = dashboards()
        for dashboard in shown:
            expected.setdefault(dashboard, {}).update({"$job": None, "$instance": None})
        self.assertEqual({d: set(panels) for d, panels in shown.items()}, {d: set(panels) for d, panels in expected.items()})
        for dashboard, panels in shown.items():
            for title, exprs in panels.items():
                if title.startswith("$"):
                    with self.subTest(f"{dashboard}, {title}"):
                        values = {series[title[1:]] for series, _ in self.prometheus.query(exprs[0], at)}
                        self.assertEqual(values, {"$job": {"eigsvc"}, "$instance": {self.http}, "$task": {"mqar"},
                                                  "$model": {*truths, "mamba2"}}[title])
                    continue
                self.assertEqual(len(exprs), len(expected[dashboard][title]), title)
                for expr, values in zip(exprs, expected[dashboard][title]):
                    self.holds(f"{dashboard}, {title}", expr, values, at)
        self.check_rules(samples, truths, run, at, moments[0])
        with self.subTest("heatmaps"):
            self.check_heatmaps(shown["eigsvc-spectra"], started, moments)

        with self.subTest("every family is shown, everything shown is exported"):
            text = self.scrape()
            exported = set(re.findall(r"^# TYPE (\S+)", text, re.M))
            shown_families = set()
            for expr in [expr for panels in shown.values() for exprs in panels.values() for expr in exprs] + [rule["expr"] for rule in rules()]:
                for name in re.findall(r"\b(?:eigsvc|process)_[a-z0-9_]+", expr):
                    shown_families.add(name if name in exported else HISTOGRAM_SUFFIX.sub("", name))
            self.assertEqual(exported - shown_families, set(), "exported and nowhere shown")
            self.assertEqual(shown_families - exported, set(), "shown and not exported")
        call.cancel()
        waiting.cancel()
        reader.join()
        self.daemon.wait_idle(30)
        with self.subTest("a training's series end with it"):
            self.prometheus.wait(lambda: "eigsvc_training_step{" not in self.scrape(), 5)

    @staticmethod
    def read_progress(call, progresses):
        try:
            for response in call:
                if response.event.WhichOneof("event") == "progress":
                    progresses.append(response.event.progress)
        except grpc.RpcError:
            pass  # it was cancelled

    def training_run(self, samples, progresses):
        """The report that the newest scrape shows, as the training's own stream told it."""
        (key, step), = samples.now("eigsvc_training_step").items()
        self.assertEqual(key, labels(model="mamba2", task="mqar"))
        found = [progress for progress in progresses if progress.step == step]
        self.assertTrue(found, f"no report of step {step}; the last is of {progresses[-1].step}")
        report = found[-1]
        self.assertTrue(0 < report.loss < 2 * math.log(64) and report.steps == 10**6)
        parts = [site.summary for site in report.sites]
        count = sum(part.count for part in parts)

        def share(field):
            return sum(part.count * getattr(part, field) for part in parts) / count
        medians = [-1 / part.quantiles[3] for part in parts]
        return {"labels": key, "step": step, "steps": report.steps, "loss": report.loss, "learning_rate": report.learning_rate,
                "gradient_norm": report.gradient_norm, "tokens_per_second": report.tokens_per_second, "score": report.score.value,
                "near_one": share("near_1"), "near_zero": share("le_0_1"), "above_one": share("above_1"),
                "radius": math.exp(max(part.max for part in parts)), "median_timescale": (min(medians) / 1.016, max(medians) * 1.016)}

    def check_counters(self, samples):
        """Of what the test did itself, it knows the numbers."""
        for name, having, expected in [
                ("jobs_total", {"kind": "analysis", "outcome": "succeeded"}, 6), ("jobs_total", {"kind": "analysis", "outcome": "failed"}, 3),
                ("jobs_total", {"kind": "analysis", "outcome": "cancelled"}, 3), ("jobs_total", {"kind": "training", "outcome": "succeeded"}, 5),
                ("rpcs_total", {"code": "DATA_LOSS"}, 3), ("rpcs_total", {"code": "CANCELLED"}, 3),
                ("cancel_latency_seconds_count", {}, 3), ("worker_up", {}, 1), ("worker_restarts_total", {}, 0),
                ("job_retries_total", {}, 0), ("metrics_dropped_spectra_total", {}, 0)]:
            with self.subTest(f"{name} {having}"):
                self.assertEqual(sum(samples.now(f"eigsvc_{name}", **having).values()), expected)

    def check_rules(self, samples, truths, run, at, first):
        for group in self.prometheus.get("/api/v1/rules")["groups"]:
            for rule in group["rules"]:
                self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])
        recorded = records(samples, truths)
        looked_at = alerts(samples, truths, run, recorded)
        self.assertEqual({rule["record"] for rule in rules() if "record" in rule}, set(recorded))
        self.assertEqual({rule["alert"] for rule in rules() if "alert" in rule}, set(looked_at))
        then, (name, before) = first[0], *first[1].items()
        low, high = (now - past for now, past in zip(truths[name].near_one, reversed(before.near_one)))
        (shift,) = [rule["expr"] for rule in rules() if rule.get("record") == "eigsvc:spectrum_near_one_ratio:delta1d"]
        self.assertFalse(low <= 0 <= high, "the two analyses differ by more than is allowed for")
        self.holds("a shift", shift.replace("1d", f"{round(1000 * (at - then))}ms"), {labels(model=name, task="mqar"): (low, high)}, at)
        for rule in rules():
            if "record" in rule:
                self.holds(rule["record"], rule["expr"], recorded[rule["record"]], at)
                with self.subTest(f"{rule['record']}, recorded"):
                    self.assertEqual(bool(self.prometheus.query(rule["record"], at)), bool(recorded[rule["record"]]))
                continue
            replaced, values = looked_at[rule["alert"]]
            expr = rule["expr"]
            for old, new in replaced:
                self.assertIn(old, expr, rule["alert"])
                expr = expr.replace(old, new)
            if rule["alert"] in CHAINED:  # on records, whose newest value is of the last evaluation
                values = {key: (0.9 * value, 1.1 * value) for key, value in values.items()}
            self.holds(rule["alert"], expr, values, at)

    def check_heatmaps(self, shown, started, moments):
        """What Grafana would draw of the answers to a heatmap's range query, drawn here: each moment's column against the
        exported eigenvalues, as numbers and as read back from the picture."""
        folder = harness.options.bin.parent / "heatmaps"
        folder.mkdir(exist_ok=True)
        for title, name in HEATMAPS.items():
            (expr,) = shown[title]
            data = self.prometheus.get("/api/v1/query_range", query=expr, start=started, end=moments[-1][0], step=0.5)["result"]
            series = sorted((float(each["metric"]["le"]), {float(t): float(v) for t, v in each["values"]}) for each in data)
            times = sorted({t for _, values in series for t in values})
            cumulative = numpy.array([[values.get(t, 0) for t in times] for _, values in series])
            counts = numpy.diff(cumulative, axis=0, prepend=0)
            self.assertTrue((counts >= 0).all())
            path = folder / f"{name}.png"
            path.write_bytes(picture(counts))
            drawn = read_png(path.read_bytes())
            for moment, truths in moments:
                column = max(index for index, t in enumerate(times) if t <= moment)
                low, high = numpy.array(list(added(name, truths.values()).values())).T
                self.assertEqual(len(low), len(series), title)
                self.assertTrue(((low <= cumulative[:, column]) & (cumulative[:, column] <= high)).all(), f"{title}: {low} {cumulative[:, column]} {high}")
                if (low == high).all():
                    exact = numpy.diff(low, prepend=0)
                    numpy.testing.assert_array_equal(cells(drawn)[:, column], shades(exact, counts.max()), title)

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
        for model_id in [m.model_id for m in models if m.model.checkpoint_sha256 and not m.model.HasField("initial_seed")]:
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
        self.expect('increase(eigsvc_job_retries_total{kind="analysis"}[1m])', lambda value: value > 0)
        for _ in stream:
            pass
        self.assertNotIn('{model="twin:mamba2.pt"', self.scrape(), "the pool went with the process")
        self.expect("sum(eigsvc_worker_restarts_total)", lambda value: value >= 1)
        before = self.value("sum(eigsvc_worker_restarts_total)")
        for kills in range(1, 5):  # a short absence may fall between two scrapes, its count does not
            os.kill(self.daemon.wait_idle(60).process_id, signal.SIGKILL)
            self.expect("sum(eigsvc_worker_restarts_total)", lambda value: value >= before + kills)
        self.expect("min_over_time(eigsvc_worker_up[1m])", lambda value: value == 0)
        self.prometheus.wait(lambda: "EigsvcWorkerCrashLoop" in self.firing())
        self.daemon.wait_idle(60)
        self.expect("eigsvc_worker_resident_memory_bytes", lambda value: value > 0)
        time.sleep(1)  # what a scrape has just shown is stored as of the moment that is asked for
        at = round(time.time() - 0.3, 3)
        samples, shown = Samples(self.prometheus, at), dashboards()["eigsvc-service"]
        for title in ("Restarts", "Jobs refused or run again"):
            for expr, values in zip(shown[title], service(samples)[title]):
                self.assertGreater(sum(values.values()), 0)
                self.holds(title, expr, values, at)
        self.daemon.wait_idle(60)
        self.expect("eigsvc_worker_up", lambda value: value == 1)
        self.assertEqual(self.value("eigsvc_ready"), 1)

    def test_5_a_drain_shows_and_ends(self):
        type(self).daemon.stop()
        type(self).daemon = self.start_daemon("--lame-duck=4s")
        self.expect("eigsvc_ready", lambda value: value == 1)
        self.daemon.process.send_signal(signal.SIGTERM)
        self.expect("eigsvc_draining", lambda value: value == 1, 4)
        for title, shown in {"Draining": 1, "Ready": 0}.items():
            self.assertEqual(self.value(dashboards()["eigsvc-service"][title][0]), shown, title)
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
