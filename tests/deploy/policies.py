"""What every overlay is held to, beside the schemas; and for each policy a change to the rendered objects that breaks it."""

import json
import re

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


def autoscalers(objects, deployment):
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}
    return [o for o in of_kind(objects, "HorizontalPodAutoscaler") if o["spec"]["scaleTargetRef"] == target]


@policy
def survives_one_pod(objects):
    """No fewer than two: by the autoscaler, which raises a Deployment to its minimum without a metric, too."""
    return all(any(a["spec"]["minReplicas"] >= 2 for a in autoscalers(objects, o)) for o in of_kind(objects, "Deployment"))


@policy
def only_the_autoscaler_counts_replicas(objects):
    """A count in the Deployment would be set again by every apply, whatever load there is."""
    return not any("replicas" in o["spec"] for o in of_kind(objects, "Deployment"))


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
    return all("eigsvc_job_queue_depth" in [m["external"]["metric"]["name"] for m in o["spec"]["metrics"] if m["type"] == "External"]
               for o in of_kind(objects, "HorizontalPodAutoscaler"))


@policy
def scrapes_a_port_that_exists(objects):
    names = {port["name"] for c in containers(objects) for port in c["ports"]}
    return all(endpoint["port"] in names for o in of_kind(objects, "PodMonitor") for endpoint in o["spec"]["podMetricsEndpoints"])


@policy
def fits_into_an_apply(objects):
    """`kubectl apply` keeps what it applied in an annotation, which may have 256 KiB."""
    return all(len(json.dumps(o)) < 256 * 1024 for o in objects)


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
    "survives-one-pod": lambda o: first(o, "HorizontalPodAutoscaler")["spec"].update(minReplicas=1),
    "only-the-autoscaler-counts-replicas": lambda o: first(o, "Deployment")["spec"].update(replicas=2),
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
    "fits-into-an-apply": lambda o: first(o, "ConfigMap")["data"].update(more="x" * 256 * 1024),
}
