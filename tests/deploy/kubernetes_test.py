"""Renders every overlay, validates each object against the schemas of Kubernetes and of the Prometheus operator, and holds
all of them to the policies (policies.py).

Each policy has a fixture: a change to the rendered objects that breaks it, which must be caught by that policy and by no
other. A policy that nothing can break, or a fixture that nothing catches, fails.

    kubernetes_test.py --source DIR --bin DIR
"""

import argparse
import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

from policies import BREAKS, POLICIES, containers, first, pods, settings

KUBERNETES = "1.32"
OVERLAYS = {"cpu": ["cpu"], "gpu": ["gpu"], "cpu, monitored": ["cpu", "monitoring"], "gpu, monitored": ["gpu", "monitoring"]}
TOOLS = pathlib.Path(os.environ.get("EIGSVC_CACHE", pathlib.Path.home() / ".cache/eigsvc")) / "deploy-tools"
OPERATOR = "monitoring.coreos.com/v1"


def kubectl():
    """The pinned one that the set-up brings, else what is there."""
    return shutil.which("kubectl", path=f"{TOOLS}/bin:{os.environ['PATH']}") or sys.exit("no kubectl: run make setup-test")


def render(source, overlays):
    commands = [[kubectl(), "kustomize", f"{source}/deploy/kubernetes/overlays/{overlay}"] for overlay in overlays]
    if "monitoring" in overlays:
        commands.append([f"{source}/deploy/kubernetes/prometheus-rule.sh"])
    objects = []
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr}")
        objects += [o for o in yaml.safe_load_all(done.stdout) if o]
    return objects


def schema_faults(objects):
    faults = []
    for o in objects:
        if o["apiVersion"] == OPERATOR:
            continue
        try:
            kubernetes_validate.validate(o, desired_version=KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f'{o["kind"]} {o["metadata"]["name"]}: {error.message}')
    custom = [o for o in objects if o["apiVersion"] == OPERATOR]
    said = subprocess.run(["node", pathlib.Path(__file__).with_name("custom_resources.mjs"), TOOLS / "node_modules"],
                          input=json.dumps(custom), capture_output=True, text=True)
    if said.returncode != 0:
        sys.exit(f"custom_resources.mjs: {said.stderr}")
    return faults + said.stdout.splitlines()


def unnoticed(objects):
    """Changes that the schemas should refuse: a field and a value of each kind of schema."""
    def rule(o):
        return first(o, "PrometheusRule")["spec"]["groups"][0]["rules"][0]

    def endpoint(o):
        return first(o, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    changes = {"terminationGracePeriod": lambda o: pods(o)[0].update(terminationGracePeriod=5),
               "replicas": lambda o: first(o, "HorizontalPodAutoscaler")["spec"].update(minReplicas="2"),
               "scrapeTimeOut": lambda o: endpoint(o).update(scrapeTimeOut="5s"), "interval": lambda o: endpoint(o).update(interval="5 s"),
               "summary": lambda o: rule(o).update(summary="x"), "for": lambda o: rule(o).update({"for": "5 minutes"})}
    whole = []
    for number, change in enumerate(changes.values()):
        changed = copy.deepcopy(objects)
        change(changed)
        for o in changed:
            o["metadata"]["name"] = f"change-{number}"
        whole += changed
    said = schema_faults(whole)
    return [f"the schemas take a wrong {name}" for number, name in enumerate(changes)
            if not any(f" change-{number}: " in fault for fault in said)]


def setting_faults(objects, bin):
    """The daemon takes no notice of a variable that it does not know."""
    text = subprocess.run([f"{bin}/eigsvcd", "--help"], capture_output=True, text=True, check=True).stdout
    names = [*settings(objects), *(each["name"] for c in containers(objects) for each in c.get("env", []))]
    return [f"the daemon knows no {name}" for name in names if name.startswith("EIGSVC_") and f"Environment: {name}." not in text]


def grace_faults(source):
    """What is committed is what the script writes, and the script follows the settings."""
    faults = []
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(f"{source}/deploy/kubernetes", directory, dirs_exist_ok=True)
        base = pathlib.Path(directory, "base")
        committed, values = (base / "termination-grace.yaml").read_text(), (base / "settings.env").read_text()

        def write(change, value):
            (base / "settings.env").write_text(re.sub(rf"(?m)^{change}=.*$", f"{change}={value}", values))
            return subprocess.run([f"{directory}/termination-grace.sh"], capture_output=True, text=True)

        def grace():
            return yaml.safe_load((base / "termination-grace.yaml").read_text())["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        write("EIGSVC_NONE", "")
        if (base / "termination-grace.yaml").read_text() != committed:
            faults.append("termination-grace.yaml is not of settings.env: run deploy/kubernetes/termination-grace.sh")
        for value, wanted in (("2m", 140), ("1h", 3620), ("500ms", 21)):
            write("EIGSVC_DRAIN_TIMEOUT", value)
            if grace() != wanted:
                faults.append(f"of a drain of {value} the grace is {grace()} s, not {wanted}")
        refused = write("EIGSVC_LAME_DUCK", "soon")
        if refused.returncode == 0 or "EIGSVC_LAME_DUCK" not in refused.stderr:
            faults.append("a lame duck that is no duration is taken")
    return faults


def broken(objects):
    return {name for name, holds in POLICIES.items() if not holds(objects)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True)
    parser.add_argument("--bin", required=True)
    options = parser.parse_args()
    source = options.source
    failures, rendered = [], {}
    for name, overlays in OVERLAYS.items():
        rendered[name] = render(source, overlays)
        failures += [f"{name}: {fault}" for fault in schema_faults(rendered[name])]
        failures += [f"{name}: {fault}" for fault in setting_faults(rendered[name], options.bin)]
        failures += [f"{name}: breaks {rule}" for rule in sorted(broken(rendered[name]))]
    failures += [f"policy {name} has no fixture" for name in sorted(set(POLICIES) - set(BREAKS))]
    whole = rendered["gpu, monitored"]
    for name, change in BREAKS.items():
        fixture = copy.deepcopy(whole)
        change(fixture)
        found = broken(fixture)
        if found != {name}:
            failures.append(f"the fixture of {name} is caught by {sorted(found) or 'nothing'}")
    with open(f"{source}/deploy/prometheus/rules.yml", encoding="utf-8") as rules:
        if first(whole, "PrometheusRule")["spec"] != yaml.safe_load(rules):
            failures.append("the PrometheusRule is not rules.yml")
    misspelt = copy.deepcopy(whole)
    settings_of = next(o for o in misspelt if o["kind"] == "ConfigMap" and "EIGSVC_LISTEN" in o["data"])
    settings_of["data"]["EIGSVC_LAME_DUCKS"] = "5s"
    if setting_faults(misspelt, options.bin) != ["the daemon knows no EIGSVC_LAME_DUCKS"]:
        failures.append("a misspelt setting is taken")
    failures += grace_faults(source)
    failures += unnoticed(whole)
    objects = sum(len(o) for o in rendered.values())
    print("\n".join(failures) or json.dumps({"overlays": len(rendered), "objects": objects, "policies": len(POLICIES),
                                             "fixtures caught": len(BREAKS)}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
