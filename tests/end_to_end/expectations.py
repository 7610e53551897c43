"""What panels, recording rules and alerts should return: reckoned here from exported eigenvalues, from what the test did, and,
where only the daemon knows, from Prometheus' stored samples by Prometheus' published formulas of rate() and
histogram_quantile(). Expected values are numbers or (low, high)."""

import math

import numpy

MODULUS = [.1, .25, .5, .7, .8, .9, .95, .98, .99, .995, .998, .999, .9995, .9999, 1, 1.000001, 1.0001, 1.001, 1.01, 1.05, 1.1, 2,
           math.inf]
TIMESCALE = [2.0 ** k for k in range(-2, 21)] + [math.inf]
PHASE = [math.pi * k / 16 for k in range(1, 17)] + [math.inf]
WINDOW = 300  # seconds; what $__rate_interval becomes


def labels(**pairs):
    return frozenset((name, f"{float(value):.9g}" if name == "le" else value) for name, value in pairs.items())


def own(series):
    """Labels without those that every series of the one daemon has."""
    return labels(**{name: value for name, value in series.items() if name not in ("__name__", "job", "instance")})


def by(values, *names):
    sums = {}
    for key, value in values.items():
        key = frozenset(pair for pair in key if pair[0] in names)
        sums[key] = sums.get(key, 0) + value
    return sums


class Samples:
    """Everything that Prometheus stored of the daemon, as of one moment."""

    def __init__(self, prometheus, at):
        self.at, self.latest, self.ranges = at, {}, {}
        selector = '{__name__=~"(eigsvc|process)_.+"}'
        for series, value in prometheus.query(selector, at):
            self.latest.setdefault(series["__name__"], {})[own(series)] = value
        for each in prometheus.get("/api/v1/query", query=f"{selector}[{WINDOW}s]", time=at)["result"]:
            points = [(float(t), float(v)) for t, v in each["values"]]
            self.ranges.setdefault(each["metric"]["__name__"], {})[own(each["metric"])] = points

    def now(self, name, **having):
        return {key: value for key, value in self.latest[name].items() if set(having.items()) <= key}

    def mean(self, name):
        return {key: sum(v for _, v in points) / len(points) for key, points in self.ranges[name].items()}

    def increase(self, name, window=WINDOW, **having):
        found = {}
        for key, points in self.ranges[name].items():
            points = [point for point in points if point[0] >= self.at - window]
            if not set(having.items()) <= key or len(points) < 2:
                continue
            (first, low), (last, high) = points[0], points[-1]
            gained, span = high - low, last - first
            gap = span / (len(points) - 1)
            before, after = first - (self.at - window), self.at - last
            if gained > 0:  # a counter is extrapolated no further back than to its zero
                before = min(before, span * low / gained)
            reach = span + sum(edge if edge < 1.1 * gap else gap / 2 for edge in (before, after))
            found[key] = gained * reach / span
        return found

    def rate(self, name, window=WINDOW, **having):
        return {key: value / window for key, value in self.increase(name, window, **having).items()}

    def quantile(self, q, name, *names, window=WINDOW):
        return quantiles(q, by(self.rate(f"{name}_bucket", window), "le", *names))


def quantiles(q, cumulative):
    groups = {}
    for key, value in cumulative.items():
        le = float(dict(key)["le"])
        groups.setdefault(frozenset(pair for pair in key if pair[0] != "le"), []).append((le, value))
    found = {}
    for key, buckets in groups.items():
        buckets.sort()
        rank = q * buckets[-1][1]
        index = next((i for i, (_, count) in enumerate(buckets) if count >= rank), len(buckets) - 1)
        edge, count = buckets[index]
        low, before = buckets[index - 1] if index else (0, 0)
        found[key] = low if math.isinf(edge) else low + (edge - low) * (rank - before) / (count - before) if count > before else math.nan
    return found


class Truth:
    """One analysis, from its exported eigenvalues alone. `logs`: log|λ|; `floors`: the noise floor of each."""

    def __init__(self, logs, phases, floors, accuracy, computed):
        self.nonfinite = int(numpy.isnan(logs).sum())
        known = ~numpy.isnan(logs)
        self.logs, self.phases, floors = logs[known], phases[known], floors[known]
        self.eigenvalues, self.accuracy, self.computed = len(self.logs), accuracy, computed
        self.radius = math.exp(self.logs.max())
        modulus = numpy.exp(self.logs)
        self.near_one = self.share(numpy.abs(1 - modulus) <= 0.01)
        self.near_zero = self.share(modulus <= 0.1)
        self.above_one = self.share(self.logs > numpy.maximum(1e-6, floors))
        with numpy.errstate(divide="ignore"):
            self.timescales = numpy.sort(numpy.where(self.logs >= 0, numpy.inf, -1 / self.logs))

    def share(self, which):
        """With room for two that lie on the edge."""
        return which.mean() - 2 / len(which), which.mean() + 2 / len(which)

    def timescale(self, q):  # the daemon knows them by bins of 1.6 %
        value = self.timescales[math.ceil(q * self.eigenvalues) - 1]
        return value / 1.016, value * 1.016

    def buckets(self, name):
        """By edge: how many are not above it. A bin of the spectrum is 1/32 octave of log|λ| wide and stands at its middle."""
        if name == "timescale_steps":
            return {edge: 2 * (self.count(self.timescales <= edge),) for edge in TIMESCALE}
        if name == "phase_radians":
            return {edge: 2 * (self.count(numpy.abs(self.phases) <= edge + 1e-12),) for edge in PHASE}
        counts = {}
        for edge in MODULUS:
            log = math.log(edge)
            slack = max(abs(log) / 60, 2.0 ** -30) if math.isfinite(log) else 0
            counts[edge] = self.count(self.logs <= log - slack), self.count(self.logs <= log + slack)
        return counts

    @staticmethod
    def count(which):
        return int(numpy.count_nonzero(which))

    def beyond(self, steps):
        return numpy.count_nonzero(self.timescales > steps) / self.eigenvalues


def added(name, truths):
    """The cumulative buckets of several analyses, by edge: (low, high)."""
    parts = [truth.buckets(name) for truth in truths]
    return {edge: tuple(sum(part[edge][side] for part in parts) for side in (0, 1)) for edge in parts[0]}


def _shares(of):
    return [of("near_one"), of("near_zero"), of("above_one")]


def spectra(truths, run, at):
    """Panels of Spectra and Compare: by title, what each of the targets returns. `run`: labels and numbers of a training."""
    def of(field, **more):
        return {labels(model=model, task="mqar", **more): getattr(truth, field) for model, truth in truths.items()}

    def timescale(stat):
        return {labels(model=model, task="mqar", stat=stat): truth.timescale(int(stat[1:]) / 100) for model, truth in truths.items()}

    def plain(values):
        return {frozenset(pair for pair in key if pair[0] in ("model", "task")): value for key, value in values.items()}

    def ages():
        return {key: (at - late, at - early) for key, (early, late) in of("computed").items()}

    def heat(name):
        return {labels(le=edge): bounds for edge, bounds in added(name, truths.values()).items()}
    everywhere, scores = frozenset(), of("accuracy", metric="accuracy")
    newest = max(truths.values(), key=lambda truth: truth.computed)
    training = {name: {run["labels"]: value} for name, value in run.items() if name != "labels"}
    return {
        "eigsvc-spectra": {
            "$model": None, "$task": None,  # what these return is asked of their label values
            "Eigenvalues": [{everywhere: sum(truth.eigenvalues for truth in truths.values())}],
            "Non-finite": [{everywhere: sum(truth.nonfinite for truth in truths.values())}],
            "Largest |λ|": [{everywhere: max(truth.radius for truth in truths.values())}],
            "Age": [{everywhere: (at - newest.computed[1], at - newest.computed[0])}],
            "Models": [{everywhere: len(truths)}],
            "Best score": [{everywhere: max(truth.accuracy for truth in truths.values())}],
            "Timescale of memory": [heat("timescale_steps")], "Modulus": [heat("modulus")], "Phase": [heat("phase_radians")],
            "Shares": _shares(of),
            "Timescale quantiles": [timescale("p50") | timescale("p90") | timescale("p99")],
            "Score against the share near 1": [of("accuracy"), of("near_one")],
            "Loss": [training["loss"]],
            "Score in training": [{run["labels"] | labels(metric="accuracy"): run["score"]}],
            "Shares in training": _shares(training.get),
            "Memory in training": [training["median_timescale"]],
            "Largest |λ| in training": [training["radius"]],
            "Progress": [{run["labels"]: run["step"] / run["steps"]}],
            "Gradient norm and learning rate": [training["gradient_norm"], training["learning_rate"]],
            "Speed": [training["tokens_per_second"]],
        },
        "eigsvc-compare": {
            "$model": None, "$task": None,
            "Models side by side": [of("accuracy"), *_shares(of), of("radius"), plain(timescale("p50")), plain(timescale("p99")),
                                    of("eigenvalues")],
            "Score against the share near 1": [of("near_one"), of("accuracy")],
            "Memory beyond N steps": [{key: truth.beyond(steps) for key, truth in zip(of("radius"), truths.values())}
                                      for steps in (16, 256, 4096, 65536)],
            "Score": [scores], "Near 1": [of("near_one")], "Above 1": [of("above_one")],
            "Scores": [scores], "Median timescales": [plain(timescale("p50"))], "Largest |λ|": [of("radius")],
            "Age of the analyses": [ages()],
        },
    }


def service(samples):
    """Panels of Service. What the test itself brought about is held to the stored samples before (monitoring_test.py)."""
    s, everywhere = samples, frozenset()

    def pair(name, *names):
        return [s.quantile(0.5, name, *names), s.quantile(0.99, name, *names)]
    return {
        "Ready": [{everywhere: 1}], "Draining": [{everywhere: 0}], "Waiting": [{everywhere: 1}], "Running": [{everywhere: 1}],
        "Workers up": [{everywhere: 1}], "Versions": [{everywhere: 1}],
        "Requests": [by(s.rate("eigsvc_rpcs_total"), "method")],
        "Requests that fail": [by({key: rate for key, rate in s.rate("eigsvc_rpcs_total").items() if ("code", "OK") not in key}, "code")],
        "Latency": pair("eigsvc_rpc_duration_seconds", "method"),
        "Open requests": [s.now("eigsvc_rpcs_in_flight")],
        "Streamed bytes": [by(s.rate("eigsvc_stream_bytes_total"), "direction")],
        "Cancels": pair("eigsvc_cancel_latency_seconds"),
        "Queue": [{everywhere: 1}, {everywhere: 64}],
        "Wait in the queue": pair("eigsvc_job_queue_wait_seconds", "kind"),
        "Jobs that end": [by(s.rate("eigsvc_jobs_total"), "kind", "outcome")],
        "Jobs refused or run again": [by(s.rate("eigsvc_jobs_rejected_total"), "reason"), by(s.rate("eigsvc_job_retries_total"), "kind")],
        "Duration": pair("eigsvc_job_duration_seconds", "kind"),
        "Where the time goes": [by(s.rate("eigsvc_job_phase_duration_seconds_sum"), "kind", "phase")],
        "Eigenvalues": [by(s.rate("eigsvc_eigenvalues_total"), "task")],
        "Memory of results": [s.now("eigsvc_results_bytes")],
        "Busy": [s.mean("eigsvc_worker_busy")],
        "Restarts": [by(s.increase("eigsvc_worker_restarts_total"), "device", "cause")],
        "Device memory": [s.now("eigsvc_device_memory_bytes")],
        "Memory of workers": [s.now("eigsvc_worker_resident_memory_bytes"), s.now("eigsvc_worker_model_bytes")],
        "Loaded models": [s.now("eigsvc_worker_models")],
        "Spectra that made room": [s.increase("eigsvc_metrics_dropped_spectra_total")],
        "CPU": [s.rate("process_cpu_seconds_total")],
        "Memory": [s.now("process_resident_memory_bytes"), s.now("process_virtual_memory_bytes")],
        "File descriptors": [s.now("process_open_fds"), s.now("process_max_fds")],
        "Uptime": [{everywhere: s.at - s.now("process_start_time_seconds")[everywhere]}],
    }


def _ratio(parts, whole):
    return {key: part / whole[key] for key, part in parts.items()}


def records(samples, truths):
    """By name: what the recording rule's expression returns."""
    s, pairs = samples, {labels(model=model, task="mqar"): truth for model, truth in truths.items()}
    lost = {key: rate for key, rate in s.rate("eigsvc_rpcs_total").items() if dict(key)["code"] in ("INTERNAL", "UNKNOWN", "DATA_LOSS")}
    memory = s.now("eigsvc_device_memory_bytes")
    used = {key: value for key, value in memory.items() if ("state", "used") in key}
    octaves = {key | labels(le=edge): bounds[0] for key, truth in pairs.items()
               for edge, bounds in truth.buckets("timescale_steps").items()}
    return {
        "eigsvc:rpc_errors:ratio_rate5m": _ratio(by(lost), by(s.rate("eigsvc_rpcs_total"))),
        "eigsvc:rpc_duration_seconds:p99_rate5m": s.quantile(0.99, "eigsvc_rpc_duration_seconds", "method"),
        "eigsvc:job_queue_wait_seconds:p90_rate15m": s.quantile(0.9, "eigsvc_job_queue_wait_seconds", "kind", window=900),
        "eigsvc:job_queue:saturation": {frozenset(): 1 / 64},
        "eigsvc:jobs_failed:ratio_rate15m": _ratio(by(s.rate("eigsvc_jobs_total", 900, outcome="failed"), "kind"),
                                                   by(s.rate("eigsvc_jobs_total", 900), "kind")),
        "eigsvc:eigenvalues:rate5m": by(s.rate("eigsvc_eigenvalues_total"), "task"),
        "eigsvc:device_memory:utilisation": _ratio(by(used, "device"), by(memory, "device")),
        "eigsvc:spectrum_timescale_steps:p50": quantiles(0.5, octaves),
        "eigsvc:spectrum_beyond_1024_steps:ratio": {key: truth.beyond(1024) for key, truth in pairs.items()},
        "eigsvc:spectrum_near_one_ratio:delta1d": {},  # there is no yesterday; check_rules looks less far back
        "eigsvc:task_score:best1d": {key | labels(metric="accuracy"): truth.accuracy for key, truth in pairs.items()},
        "eigsvc:spectrum:age_seconds": {key: (s.at - truth.computed[1], s.at - truth.computed[0]) for key, truth in pairs.items()},
    }


def alerts(samples, truths, run, recorded):
    """By name: changes that leave out the threshold or turn it round, so that the expression returns what it looks at; and
    what that is."""
    s, everywhere = samples, frozenset()
    named = {labels(model=model, task="mqar"): truth for model, truth in truths.items() if ":" not in model}
    nothing = {key: 0 for key in by(s.increase("eigsvc_worker_restarts_total"), "device")}
    return {
        "EigsvcSpectrumNonFinite": ([], {key: truth.nonfinite for key, truth in named.items() if truth.nonfinite}),
        "EigsvcSpectrumShifted": ([("> 0.2", "")], {}),
        "EigsvcScoreRegressed": ([("< 0.9", "<= 1"), ("eigsvc_task_score{", 'eigsvc_task_score{model!~".*:.*", ')], {key | labels(metric="accuracy"): truth.accuracy for key, truth in named.items()}),
        "EigsvcTrainingStalled": ([("== 0", ">= 0"), ("offset 20m", "offset 1s")],
                                  {run["labels"]: changes(s.ranges["eigsvc_training_step"][run["labels"]])}),
        "EigsvcTrainingDiverges": ([("> 1.5", "> 0.01"), ("> 0.1", "> -9")], {run["labels"]: run["loss"]}),
        "EigsvcSpectraDropped": ([("> 0", "")], {everywhere: 0}),
        "EigsvcDeviceMemoryLow": ([("> 0.95", "")], recorded["eigsvc:device_memory:utilisation"]),
        "EigsvcDown": ([("== 0", "")], {everywhere: 1}),
        "EigsvcAbsent": ([("eigsvc_build_info", "eigsvc_build_inf")], {everywhere: 1}),
        "EigsvcNotReady": ([("eigsvc_ready == 0", "eigsvc_ready")], {everywhere: 1}),
        "EigsvcDrainStuck": ([("== 1", "")], {everywhere: 0}),
        "EigsvcQueueSaturated": ([("> 0.8", "")], {everywhere: 1 / 64}),
        "EigsvcJobsRejected": ([("> 0", ""), ("queue_full", "invalid")],
                               by(s.increase("eigsvc_jobs_rejected_total", 600, reason="invalid"), "reason")),
        "EigsvcJobsFailing": ([("> 0.2", "")], recorded["eigsvc:jobs_failed:ratio_rate15m"]),
        "EigsvcQueueWaitLong": ([("> 600", "")], recorded["eigsvc:job_queue_wait_seconds:p90_rate15m"]),
        "EigsvcWorkerDown": ([("== 0", "")], {labels(device="cpu"): 1}),
        "EigsvcWorkerCrashLoop": ([("> 3", "")], nothing),
        "EigsvcJobsRetried": ([("> 2", "")], {everywhere: 0}),
        "EigsvcCancelSlow": ([("> 0.25", "")], s.quantile(0.99, "eigsvc_cancel_latency_seconds", window=1800)),
        "EigsvcRpcErrors": ([("> 0.05", "")], recorded["eigsvc:rpc_errors:ratio_rate5m"]),
        "EigsvcFileDescriptorsLow": ([("> 0.8", "")], _ratio(s.now("process_open_fds"), s.now("process_max_fds"))),
        "EigsvcRestarted": ([("> 2", "")], {everywhere: 0}),
    }


def changes(points):
    return sum(a[1] != b[1] for a, b in zip(points, points[1:]))


def differences(expected, found):
    """What differs, in words; `found` as Prometheus answers it."""
    got = {own(series): value for series, value in found}
    said = [f"{dict(key)} is missing" for key in expected.keys() - got.keys()]
    said += [f"{dict(key)} should not be there" for key in got.keys() - expected.keys()]
    for key in expected.keys() & got.keys():
        low, high = expected[key] if isinstance(expected[key], tuple) else (expected[key],) * 2
        slack = 1e-6 * max(abs(low), abs(high)) if math.isfinite(high) else 0
        if not low - slack <= got[key] <= high + slack:  # NaN is in no range
            said.append(f"{dict(key)} is {got[key]}, not {expected[key]}")
    if len(got) != len(found):
        said.append("two series go by the same labels")
    return said
