"""Debian's Prometheus on loopback, with the rules as they are shipped and a scrape every half second."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

import harness


class Prometheus:
    def __init__(self, target):
        self.directory = tempfile.mkdtemp(prefix="eigsvc-prometheus-")
        source = harness.options.source / "deploy" / "prometheus"
        config = yaml.safe_load((source / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        (scrape,) = config["scrape_configs"]
        scrape["static_configs"] = [{"targets": [target]}]
        config["rule_files"] = [str(source / "rules.yml")]
        pathlib.Path(f"{self.directory}/prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = harness.free_port()
        self.log = open(f"{self.directory}/log", "w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.directory}/prometheus.yml", f"--storage.tsdb.path={self.directory}/data",
             f"--web.listen-address=127.0.0.1:{self.port}", "--query.lookback-delta=3s", "--log.level=warn"],
            stdout=self.log, stderr=self.log)
        self.wait(lambda: self.get("/api/v1/status/buildinfo"), 30)

    def get(self, path, **parameters):
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # still starting
                return None
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return None

    def query(self, expr, at=None):
        """[(labels, value)] of an instant query, now or at a time; an error names the expression."""
        data = self.get("/api/v1/query", query=expr, **({} if at is None else {"time": f"{at:.3f}"}))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def wait(self, condition, seconds=20):
        until = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > until:
                raise AssertionError(f"it did not come: {pathlib.Path(self.log.name).read_text()[-2000:]}")
            time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
