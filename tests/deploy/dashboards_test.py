"""The Grafana dashboards: what is committed is what the generator writes, and the rules of grafana/dashboard-linter hold
without an exclusion. The linter itself is a Go program; its rules are written here from their descriptions, under its
names, each with a dashboard that breaks it."""

import argparse
import copy
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

options = None
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
FILES = ["eigsvc-compare.json", "eigsvc-service.json", "eigsvc-spectra.json"]
# Of Grafana's value formats, those that are used or likely.
UNITS = {"none", "short", "percentunit", "s", "bytes", "Bps", "reqps", "ops", "radian", "sci"}
SELECTOR = re.compile(r"\b((?:eigsvc|process)_[a-z0-9_]+)(\{[^{}]*\})?")


def load(name):
    return json.loads((options.source / "deploy/grafana/dashboards" / name).read_text())


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets(dashboard):
    return [(panel, target) for panel in panels(dashboard) for target in panel.get("targets", [])]


def variables(dashboard, **having):
    return [v for v in dashboard["templating"]["list"] if all(v.get(key) == value for key, value in having.items())]


def plain(expr):
    """With Grafana's variables filled in, as Prometheus gets it."""
    expr = expr.replace("$__rate_interval", "5m").replace("$__range", "1h")
    return re.sub(r"\$\{?\w+\}?", ".+", expr)


def queried(dashboard, name):
    found = variables(dashboard, name=name)
    if not found:
        return [f"no variable {name}"]
    v = found[0]
    return [f"{name}: {key} is {v.get(key)!r}" for key, want in
            {"type": "query", "label": name.title(), "multi": True, "allValue": ".+", "datasource": SOURCE}.items() if v.get(key) != want]


# By the linter's names: dashboard -> what is wrong.
RULES = {
    "template-datasource-rule": lambda d: [] if [(v["name"], v.get("label"), v.get("query")) for v in variables(d, type="datasource")]
    == [("datasource", "Data source", "prometheus")] else ["not one data source variable, or another name"],
    "template-job-rule": lambda d: queried(d, "job"),
    "template-instance-rule": lambda d: queried(d, "instance"),
    "template-label-promql-rule": lambda d: [
        v["name"] for v in variables(d, type="query") if not re.fullmatch(r"label_values\(.+, [a-z]+\)", v["query"]["query"])
        or promql_problem(v["query"]["query"].removeprefix("label_values(").rsplit(",", 1)[0])],
    "template-on-time-change-reload-rule": lambda d: [v["name"] for v in variables(d, type="query") if v.get("refresh") != 2],
    "panel-datasource-rule": lambda d: [p["title"] for p in panels(d) if p.get("datasource") != SOURCE]
    + [p["title"] for p, t in targets(d) if t.get("datasource") != SOURCE],
    "panel-title-description-rule": lambda d: [p["id"] for p in panels(d) if not p.get("title") or not p.get("description")],
    "panel-units-rule": lambda d: [p["title"] for p in panels(d) if p["type"] != "text"
                                   and p["fieldConfig"]["defaults"].get("unit") not in UNITS],
    "panel-no-targets-rule": lambda d: [p["title"] for p in panels(d) if p["type"] != "text" and not p.get("targets")],
    "target-promql-rule": lambda d: list(filter(None, [promql_problem(*[t["expr"] for _, t in targets(d)])])),
    "target-rate-interval-rule": lambda d: [
        t["expr"] for _, t in targets(d) if any(r != "$__rate_interval" for r in re.findall(r"\[([^\]]*)\]", t["expr"]))],
    "target-job-rule": lambda d: unmatched(d, 'job=~"$job"'),
    "target-instance-rule": lambda d: unmatched(d, 'instance=~"$instance"'),
    "target-counter-agg-rule": lambda d: [
        t["expr"] for _, t in targets(d) for m in SELECTOR.finditer(t["expr"]) if m.group(1).endswith("_total")
        and not re.search(r"\b(rate|irate|increase)\($", t["expr"][:m.start()])],
    "uneditable-dashboard": lambda d: ["it can be edited"] if d.get("editable", True) else [],
}


def unmatched(dashboard, matcher):
    return [t["expr"] for _, t in targets(dashboard) for m in SELECTOR.finditer(t["expr"]) if matcher not in (m.group(2) or "")]


def promql_problem(*exprs):
    """What Prometheus' own parser says, through a file of rules."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"groups": [{"name": "g", "rules": [{"record": "r:a:b", "expr": plain(expr), "labels": {"n": str(i)}}
                                                      for i, expr in enumerate(exprs)]}]}, file)
        file.flush()
        said = subprocess.run(["promtool", "check", "rules", "--lint=none", file.name], capture_output=True, text=True)
    return "" if said.returncode == 0 else said.stdout + said.stderr


def target(dashboard, index=0):
    return targets(dashboard)[index][1]


def change(path, value):
    """A dashboard with one field another."""
    def apply(d):
        *way, last = path
        for step in way:
            d = d[step]
        d[last] = value
    return apply


def edit(find, replace):
    def apply(d):
        t = next(t for _, t in targets(d) if find in t["expr"])
        t["expr"] = t["expr"].replace(find, replace, 1)
    return apply


def first_panel(d):
    return panels(d)[0]


BROKEN = [
    ("template-datasource-rule", change(["templating", "list", 0, "name"], "ds")),
    ("template-datasource-rule", lambda d: d["templating"]["list"].append(dict(d["templating"]["list"][0], name="other"))),
    ("template-job-rule", change(["templating", "list", 1, "multi"], False)),
    ("template-job-rule", lambda d: d["templating"]["list"].pop(1)),
    ("template-instance-rule", change(["templating", "list", 2, "allValue"], ".*")),
    ("template-instance-rule", change(["templating", "list", 2, "label"], "Pod")),
    ("template-label-promql-rule", change(["templating", "list", 1, "query", "query"], "label_values(up{, job)")),
    ("template-on-time-change-reload-rule", change(["templating", "list", 1, "refresh"], 1)),
    ("panel-datasource-rule", lambda d: first_panel(d).update(datasource={"type": "prometheus", "uid": "P1"})),
    ("panel-datasource-rule", lambda d: target(d).pop("datasource")),
    ("panel-title-description-rule", lambda d: first_panel(d).update(description="")),
    ("panel-title-description-rule", lambda d: first_panel(d).pop("title")),
    ("panel-units-rule", lambda d: first_panel(d)["fieldConfig"]["defaults"].pop("unit")),
    ("panel-units-rule", lambda d: first_panel(d)["fieldConfig"]["defaults"].update(unit="furlongs")),
    ("panel-no-targets-rule", lambda d: first_panel(d).update(targets=[])),
    ("target-promql-rule", edit("sum(", "sum((")),
    ("target-rate-interval-rule", edit("$__rate_interval", "5m")),
    ("target-job-rule", edit('job=~"$job", ', "")),
    ("target-instance-rule", edit('instance=~"$instance"', 'instance="a"')),
    ("target-counter-agg-rule", edit("sum by (method) (rate(eigsvc_rpcs_total", "sum by (method) (last_over_time(eigsvc_rpcs_total")),
    ("uneditable-dashboard", change(["editable"], True)),
]


class DashboardsTest(unittest.TestCase):
    def test_committed_is_what_the_generator_writes(self):
        sdk = pathlib.Path(os.environ.get("EIGSVC_CACHE", pathlib.Path.home() / ".cache/eigsvc")) / "deploy-tools/node_modules"
        self.assertTrue(sdk.is_dir(), f"no SDK at {sdk}; run make setup-test")
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(["node", options.source / "deploy/grafana/generate.js", directory], check=True,
                           env=dict(os.environ, NODE_PATH=str(sdk)))
            written = {path.name: path.read_text() for path in pathlib.Path(directory).iterdir()}
        self.assertEqual(sorted(written), FILES)
        for name, text in written.items():
            self.assertEqual(text, (options.source / "deploy/grafana/dashboards" / name).read_text(), "run make dashboards")

    def test_every_rule_of_the_linter_holds(self):
        for name in FILES:
            for rule, check in RULES.items():
                with self.subTest(dashboard=name, rule=rule):
                    self.assertEqual(check(load(name)), [])

    def test_every_rule_catches_what_breaks_it(self):
        self.assertEqual({rule for rule, _ in BROKEN}, set(RULES))
        for rule, breaks in BROKEN:
            with self.subTest(rule=rule):
                dashboard = copy.deepcopy(load("eigsvc-service.json"))
                breaks(dashboard)
                self.assertNotEqual(RULES[rule](dashboard), [])

    def test_identity(self):
        dashboards = [load(name) for name in FILES]
        self.assertEqual([f"{d['uid']}.json" for d in dashboards], FILES)
        self.assertEqual(len({d["title"] for d in dashboards}), 3)
        for dashboard in dashboards:
            ids = [panel["id"] for panel in dashboard["panels"]]
            self.assertEqual(ids, list(range(1, len(ids) + 1)))
            self.assertTrue(dashboard["description"])
            cells = set()
            for panel in dashboard["panels"]:
                grid = panel["gridPos"]
                taken = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
                self.assertLessEqual(grid["x"] + grid["w"], 24, panel["title"])
                self.assertFalse(cells & taken, f"{panel['title']} lies on another panel")
                cells |= taken

    def test_snapshots_are_not_rated(self):
        """A spectrum is no stream of events: a rate() of its buckets means nothing."""
        for name in FILES:
            for panel, t in targets(load(name)):
                self.assertNotRegex(t["expr"], r"(rate|increase)\(eigsvc_(spectrum|training|task)", panel["title"])

    def test_of_two_daemons_the_newest_analysis_counts(self):
        """Both have analysed model m, the older one n as well: sums over the daemons would count m twice, a maximum mix two analyses."""
        edges = [f'le="{edge}"' for edge in (16, 256, 4096, 65536)]
        own = {"task_score": ['metric="accuracy"', 'metric="perplexity"'], "spectrum_timescale_quantile_steps": ['stat="p50"', 'stat="p99"'],
               "spectrum_timescale_steps_bucket": edges, "spectrum_modulus_bucket": edges, "spectrum_phase_radians_bucket": edges}
        plain_names = ["spectrum_eigenvalues", "spectrum_nonfinite_eigenvalues", "spectrum_radius", "spectrum_near_one_ratio",
                       "spectrum_near_zero_ratio", "spectrum_above_one_ratio"]
        inputs = []
        for instance, model, value, ended in (("old", "m", 9, 1000), ("new", "m", 4, 2000), ("old", "n", 5, 1500)):
            shown = {**{name: [""] for name in plain_names}, **own}
            values = [(name, each, value) for name, all_of in shown.items() for each in all_of]
            values += [("spectrum_computed_timestamp_seconds", "", ended), ("spectrum_timescale_steps_count", "", 10)]
            inputs += [{"series": f'eigsvc_{name}{{job="eigsvc",task="t",instance="{instance}",model="{model}"{each and "," + each}}}',
                        "values": f"{number}x8"} for name, each, number in values]
        totals = {"Eigenvalues": 4 + 5, "Non-finite": 4 + 5, "Largest |λ|": 5, "Best score": 5, "Models": 2, "Age": 60 - 2000}
        cases, untouched = [], 0
        for name in ("eigsvc-spectra.json", "eigsvc-compare.json"):
            for panel, t in targets(load(name)):
                title, expr = panel["title"], plain(t["expr"])
                if "eigsvc_training" in expr:
                    self.assertTrue(t["legendFormat"].endswith("{{instance}}"), f"{title}: a training is of one daemon")
                    untouched += 1
                    continue
                if panel["type"] == "stat":
                    samples = {"{}": totals[title]}
                elif panel["type"] == "heatmap":
                    samples = {f"{{{edge}}}": 4 + 5 for edge in edges}
                else:
                    by_model = {"Memory beyond N steps": (1 - 4 / 10, 1 - 5 / 10), "Age of the analyses": (60 - 2000, 60 - 1500)}.get(title, (4, 5))
                    # What each series is told apart by, beside model and task.
                    more = {"Timescale quantiles": own["spectrum_timescale_quantile_steps"], "Score": own["task_score"],
                            "Scores": own["task_score"]}.get(title, [""])
                    samples = {f'{{model="{model}", task="t"{each and ", " + each}}}': value
                               for model, value in zip("mn", by_model) for each in more}
                cases.append({"expr": expr, "eval_time": "1m", "exp_samples": [
                    {"labels": series, "value": value} for series, value in samples.items()]})
        self.assertEqual((len(cases), untouched), (36, 11))
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump({"evaluation_interval": "15s", "tests": [
                {"interval": "15s", "promql_expr_test": cases, "input_series": inputs}]}, file)
            file.flush()
            said = subprocess.run(["promtool", "test", "rules", file.name], capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)

    def test_pictures_are_of_the_chosen_analysis_and_layer(self):
        spectra = load("eigsvc-spectra.json")
        self.assertEqual([v["name"] for v in variables(spectra, type="textbox")], ["url", "analysis", "layer"])
        pictures = [p["options"]["content"] for p in panels(spectra) if p["type"] == "text"]
        self.assertEqual(len(pictures), 2)
        for picture, view in zip(pictures, ("plane", "unrolled")):
            self.assertIn(f"(${{url}}/v1/analyses/${{analysis}}/plane.png?view={view}&layer=${{layer}}&t=${{__to}})", picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path, required=True)
    options, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
