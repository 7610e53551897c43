"""Renders every overlay, validates each object against the Kubernetes schemas, and holds all of them to the policies below.

Each policy has a fixture: a change to the rendered objects that breaks it, which must be caught by that policy and by no
other. A policy that nothing can break, or a fixture that nothing catches, fails.

    kubernetes_test.py --source DIR
"""

import argparse
import copy
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

KUBERNETES = "1.32"
OVERLAYS = {"cpu": ["cpu"], "gpu": ["gpu"], "cpu, monitored": ["cpu", "monitoring"], "gpu, monitored": ["gpu", "monitoring"]}
# kubernetes_validate knows no custom resources. What ours uses of it:
POD_MONITOR = {"selector": {"matchLabels"}, "podMetricsEndpoints": {"port", "path", "interval", "scrapeTimeout"}}

POLICIES = {}


def policy(function):
    POLICIES[function.__name__.replace("_", "-")] = function
    return function


def of_kind(objects, kind):
    return [o for o in objects if o["kind"] == kind]


def pods(objects):
    return [o["spec"]["template"]["spec"] for o in of_kind(objects, "Deployment")]


def containers(objects):
    return [c for pod in pods(objects) for c in pod["containers"] + pod.get("initContainers", [])]


def settings(objects):
    return {k: v for o in of_kind(objects, "ConfigMap") for k, v in o["data"].items()}


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def selects(selector, labels):
    return bool(selector.get("matchLabels")) and all(labels.get(k) == v for k, v in selector["matchLabels"].items())


def pod_labels(objects):
    return of_kind(objects, "Deployment")[0]["spec"]["template"]["metadata"]["labels"]


@policy
def namespace_enforces_restricted(objects):
    return all(o["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") == "restricted"
               for o in of_kind(objects, "Namespace"))


@policy
def runs_as_non_root(objects):
    return all(p["securityContext"].get("runAsNonRoot") is True for p in pods(objects))


@policy
def runs_as_a_high_user(objects):
    return all(p["securityContext"].get("runAsUser", 0) >= 10000 for p in pods(objects))


@policy
def seccomp_is_the_runtimes(objects):
    return all(p["securityContext"].get("seccompProfile", {}).get("type") == "RuntimeDefault" for p in pods(objects))


@policy
def no_privilege_escalation(objects):
    return all(c["securityContext"].get("allowPrivilegeEscalation") is False for c in containers(objects))


@policy
def not_privileged(objects):
    return not any(c["securityContext"].get("privileged") for c in containers(objects))


@policy
def root_file_system_is_read_only(objects):
    return all(c["securityContext"].get("readOnlyRootFilesystem") is True for c in containers(objects))


@policy
def drops_every_capability(objects):
    return all(c["securityContext"].get("capabilities", {}) == {"drop": ["ALL"]} for c in containers(objects))


@policy
def pods_have_no_token(objects):
    return all(p.get("automountServiceAccountToken") is False for p in pods(objects))


@policy
def accounts_have_no_token(objects):
    return all(o.get("automountServiceAccountToken") is False for o in of_kind(objects, "ServiceAccount"))


@policy
def no_host_namespaces(objects):
    return not any(p.get(key) for p in pods(objects) for key in ("hostNetwork", "hostPID", "hostIPC"))


@policy
def no_host_paths_or_ports(objects):
    return not any("hostPath" in v for p in pods(objects) for v in p["volumes"]) and not any(
        "hostPort" in port for c in containers(objects) for port in c["ports"])


@policy
def memory_is_guaranteed(objects):
    return all(c["resources"]["requests"].get("memory") == c["resources"]["limits"].get("memory") is not None
               for c in containers(objects))


@policy
def asks_for_cpu_without_a_limit(objects):
    return all("cpu" in c["resources"]["requests"] and "cpu" not in c["resources"]["limits"] for c in containers(objects))


@policy
def local_storage_is_limited(objects):
    return all("ephemeral-storage" in c["resources"]["limits"] for c in containers(objects)) and all(
        "sizeLimit" in v["emptyDir"] for p in pods(objects) for v in p["volumes"] if "emptyDir" in v)


@policy
def has_every_probe(objects):
    return all({"startupProbe", "livenessProbe", "readinessProbe"} <= set(c) for c in containers(objects))


@policy
def liveness_is_not_readiness(objects):
    """A draining daemon is not ready and must not be restarted: the health service's `liveness` serves until it exits."""
    return all(c["livenessProbe"].get("grpc", {}).get("service") == "liveness" for c in containers(objects) if "livenessProbe" in c)


@policy
def grace_is_of_the_drain(objects):
    """Less cuts jobs off; more keeps a pod that hangs."""
    values = settings(objects)
    needed = seconds(values["EIGSVC_LAME_DUCK"]) + seconds(values["EIGSVC_DRAIN_TIMEOUT"]) + 15
    return all(p.get("terminationGracePeriodSeconds", 30) == needed for p in pods(objects))


@policy
def rollouts_never_surge(objects):
    return all(o["spec"]["strategy"].get("rollingUpdate", {}).get("maxSurge") == 0 for o in of_kind(objects, "Deployment"))


@policy
def survives_one_pod(objects):
    return all(o["spec"]["replicas"] >= 2 for o in of_kind(objects, "Deployment"))


@policy
def has_a_disruption_budget(objects):
    return any(selects(o["spec"]["selector"], pod_labels(objects)) and o["spec"].get("maxUnavailable") == 1
               for o in of_kind(objects, "PodDisruptionBudget"))


@policy
def denies_by_default(objects):
    return any(o["spec"]["podSelector"] == {} and set(o["spec"]["policyTypes"]) == {"Ingress", "Egress"} and
               not o["spec"].get("ingress") and not o["spec"].get("egress") for o in of_kind(objects, "NetworkPolicy"))


@policy
def policies_open_named_ports_to_named_peers(objects):
    names = {port["name"] for c in containers(objects) for port in c["ports"]}
    return all(rule.get("from") and rule.get("ports") and all(port["port"] in names for port in rule["ports"])
               for o in of_kind(objects, "NetworkPolicy") for rule in o["spec"].get("ingress", []))


@policy
def nothing_goes_out(objects):
    return not any(o["spec"].get("egress") for o in of_kind(objects, "NetworkPolicy"))


@policy
def checkpoints_are_read_only(objects):
    claims = [v for p in pods(objects) for v in p["volumes"] if "persistentVolumeClaim" in v]
    mounts = [m for c in containers(objects) for m in c["volumeMounts"] if m["mountPath"] == "/checkpoints"]
    return bool(claims) and all(v["persistentVolumeClaim"].get("readOnly") for v in claims) and bool(mounts) and all(
        m.get("readOnly") for m in mounts)


@policy
def writable_paths_are_mounted(objects):
    """What the daemon writes to, on a read-only root."""
    paths = {m["mountPath"] for c in containers(objects) for m in c["volumeMounts"] if not m.get("readOnly")}
    return {"/tmp", settings(objects)["EIGSVC_STATE_DIR"]} <= paths


@policy
def images_are_tagged(objects):
    return all(":" in c["image"] and not c["image"].endswith(":latest") for c in containers(objects))


@policy
def service_is_headless(objects):
    """gRPC keeps one connection a name: behind a virtual address every call would go to one pod."""
    return all(o["spec"].get("clusterIP") == "None" and selects({"matchLabels": o["spec"]["selector"]}, pod_labels(objects))
               for o in of_kind(objects, "Service"))


@policy
def service_ports_exist(objects):
    names = {port["name"] for c in containers(objects) for port in c["ports"]}
    return all(port["targetPort"] in names for o in of_kind(objects, "Service") for port in o["spec"]["ports"])


@policy
def devices_are_asked_for_whole(objects):
    """A request equals its limit, and the pod tolerates and seeks the nodes that have one."""
    for pod in pods(objects):
        for c in pod["containers"]:
            asked, limit = (c["resources"][k].get("nvidia.com/gpu") for k in ("requests", "limits"))
            if asked != limit:
                return False
            if asked and not (any(t["key"] == "nvidia.com/gpu" for t in pod.get("tolerations", [])) and
                              "nodeAffinity" in pod.get("affinity", {})):
                return False
    return True


@policy
def scales_on_the_queue(objects):
    for o in of_kind(objects, "HorizontalPodAutoscaler"):
        metrics = [m["external"]["metric"]["name"] for m in o["spec"]["metrics"] if m["type"] == "External"]
        if "eigsvc_job_queue_depth" not in metrics or o["spec"]["minReplicas"] < 2:
            return False
    return True


@policy
def scrapes_a_port_that_exists(objects):
    names = {port["name"] for c in containers(objects) for port in c["ports"]}
    return all(endpoint["port"] in names for o in of_kind(objects, "PodMonitor") for endpoint in o["spec"]["podMetricsEndpoints"])


def first(objects, kind):
    return of_kind(objects, kind)[0]


def first_container(objects):
    return containers(objects)[0]


# By policy: what breaks it.
BREAKS = {
    "namespace-enforces-restricted": lambda o: first(o, "Namespace")["metadata"]["labels"].update(
        {"pod-security.kubernetes.io/enforce": "baseline"}),
    "runs-as-non-root": lambda o: pods(o)[0]["securityContext"].pop("runAsNonRoot"),
    "runs-as-a-high-user": lambda o: pods(o)[0]["securityContext"].update(runAsUser=1000),
    "seccomp-is-the-runtimes": lambda o: pods(o)[0]["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    "no-privilege-escalation": lambda o: first_container(o)["securityContext"].pop("allowPrivilegeEscalation"),
    "not-privileged": lambda o: first_container(o)["securityContext"].update(privileged=True),
    "root-file-system-is-read-only": lambda o: first_container(o)["securityContext"].update(readOnlyRootFilesystem=False),
    "drops-every-capability": lambda o: first_container(o)["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
    "pods-have-no-token": lambda o: pods(o)[0].pop("automountServiceAccountToken"),
    "accounts-have-no-token": lambda o: first(o, "ServiceAccount").update(automountServiceAccountToken=True),
    "no-host-namespaces": lambda o: pods(o)[0].update(hostNetwork=True),
    "no-host-paths-or-ports": lambda o: first_container(o)["ports"][0].update(hostPort=50151),
    "memory-is-guaranteed": lambda o: first_container(o)["resources"]["requests"].update(memory="1Gi"),
    "asks-for-cpu-without-a-limit": lambda o: first_container(o)["resources"]["limits"].update(cpu="2"),
    "local-storage-is-limited": lambda o: next(v for v in pods(o)[0]["volumes"] if "emptyDir" in v)["emptyDir"].pop("sizeLimit"),
    "has-every-probe": lambda o: first_container(o).pop("startupProbe"),
    "liveness-is-not-readiness": lambda o: first_container(o).update(livenessProbe={"grpc": {"port": 50151}}),
    "grace-is-of-the-drain": lambda o: pods(o)[0].update(terminationGracePeriodSeconds=180),
    "rollouts-never-surge": lambda o: first(o, "Deployment")["spec"]["strategy"]["rollingUpdate"].update(maxSurge=1),
    "survives-one-pod": lambda o: first(o, "Deployment")["spec"].update(replicas=1),
    "has-a-disruption-budget": lambda o: first(o, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update(x="y"),
    "denies-by-default": lambda o: next(p for p in of_kind(o, "NetworkPolicy") if p["spec"]["podSelector"] == {})["spec"].update(
        policyTypes=["Ingress"]),
    "policies-open-named-ports-to-named-peers": lambda o: next(
        p for p in of_kind(o, "NetworkPolicy") if p["spec"].get("ingress"))["spec"]["ingress"][0].pop("from"),
    "nothing-goes-out": lambda o: next(p for p in of_kind(o, "NetworkPolicy") if p["spec"].get("ingress"))["spec"].update(egress=[{}]),
    "checkpoints-are-read-only": lambda o: next(
        m for m in first_container(o)["volumeMounts"] if m["mountPath"] == "/checkpoints").pop("readOnly"),
    "writable-paths-are-mounted": lambda o: first_container(o)["volumeMounts"].remove(
        next(m for m in first_container(o)["volumeMounts"] if m["mountPath"] == "/tmp")),
    "images-are-tagged": lambda o: first_container(o).update(image="eigsvc:latest"),
    "service-is-headless": lambda o: first(o, "Service")["spec"].pop("clusterIP"),
    "service-ports-exist": lambda o: first(o, "Service")["spec"]["ports"][0].update(targetPort="http"),
    "devices-are-asked-for-whole": lambda o: pods(o)[0].pop("tolerations"),
    "scales-on-the-queue": lambda o: first(o, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["external"]["metric"].update(name="cpu"),
    "scrapes-a-port-that-exists": lambda o: first(o, "PodMonitor")["spec"]["podMetricsEndpoints"][0].update(port="http"),
}


def render(source, overlays):
    objects = []
    for overlay in overlays:
        done = subprocess.run(["kubectl", "kustomize", f"{source}/deploy/kubernetes/overlays/{overlay}"],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"overlay {overlay} does not render: {done.stderr}")
        objects += [o for o in yaml.safe_load_all(done.stdout) if o]
    return objects


def schema_faults(objects):
    faults = []
    for o in objects:
        name = f'{o["kind"]} {o["metadata"]["name"]}'
        if o["kind"] == "PodMonitor":
            unknown = set(o["spec"]) - set(POD_MONITOR) | {
                key for endpoint in o["spec"]["podMetricsEndpoints"] for key in set(endpoint) - POD_MONITOR["podMetricsEndpoints"]}
            faults += [f"{name}: unknown {sorted(unknown)}"] if unknown else []
            continue
        try:
            kubernetes_validate.validate(o, desired_version=KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{name}: {error.message}")
    return faults


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
    source = parser.parse_args().source
    if shutil.which("kubectl") is None:
        print("SKIPPED: no kubectl, whose `kustomize` renders the overlays")
        return 77
    failures, rendered = [], {}
    for name, overlays in OVERLAYS.items():
        rendered[name] = render(source, overlays)
        failures += [f"{name}: {fault}" for fault in schema_faults(rendered[name])]
        failures += [f"{name}: breaks {rule}" for rule in sorted(broken(rendered[name]))]
    failures += [f"policy {name} has no fixture" for name in sorted(set(POLICIES) - set(BREAKS))]
    whole = rendered["gpu, monitored"]
    for name, change in BREAKS.items():
        fixture = copy.deepcopy(whole)
        change(fixture)
        found = broken(fixture)
        if found != {name}:
            failures.append(f"the fixture of {name} is caught by {sorted(found) or 'nothing'}")
    wrapped = subprocess.run([f"{source}/deploy/kubernetes/prometheus-rule.sh"], capture_output=True, text=True, check=True).stdout
    with open(f"{source}/deploy/prometheus/rules.yml", encoding="utf-8") as rules:
        if yaml.safe_load(wrapped)["spec"] != yaml.safe_load(rules):
            failures.append("the PrometheusRule is not rules.yml")
    failures += grace_faults(source)
    misspelt = copy.deepcopy(whole)
    pods(misspelt)[0]["terminationGracePeriod"] = 5
    if not schema_faults(misspelt):
        failures.append("a misspelt field passes the schemas")
    objects = sum(len(o) for o in rendered.values())
    print("\n".join(failures) or json.dumps({"overlays": len(rendered), "objects": objects, "policies": len(POLICIES),
                                             "fixtures caught": len(BREAKS)}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
