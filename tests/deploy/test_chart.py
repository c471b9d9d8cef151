"""The chart of deploy/helm/loraland, rendered by Helm itself and held to the schemas of Kubernetes: no cluster is here.

Resources of other operators (KEDA, Prometheus, KubeRay) are held to `schemas`, written from what their documents say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmError, lint

from inference.bases import base_key
from inference.cluster.settings import read_plan
from tests.deploy.commands import missing
from tests.test_docs import documented

REPO = Path(__file__).parents[2]
CHART = REPO / "deploy" / "helm" / "loraland"
SCHEMAS = Path(__file__).parent / "schemas"
CONSTRAINTS = (REPO / "constraints.txt").read_text()
VERSIONS = ("1.27", "1.37")
"""Of Kubernetes: the oldest that the chart says it is for, and the newest of which there are schemas here."""

MISTRAL = "mistralai/Mistral-7B-v0.1"
GPU = {
    "name": "mistral",
    "base": MISTRAL,
    "replicas": 3,
    "device": "cuda",
    "settings": {"QUANTIZATION": "nf4", "MAX_ROWS": 100},
    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
    "nodeSelector": {"gpu": "h200"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
TWO_BASES = {"BASE_MODELS": f"SmolLM2-135M-Instruct,{MISTRAL}"}
SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "gpu": {"settings": TWO_BASES, "workers": {"pools": [GPU]}, "trainer": {"replicas": 0}},
    "ingress": {
        "ingress": {"enabled": True, "tlsSecret": "loraland-tls"},
        "site": {"hosts": ["land.example.org", "www.example.org"], "trustedProxies": ["10.244.0.0/16"]},
        "networkPolicy": {"enabled": True},
        "image": {"pullSecrets": ["registry"]},
    },
    "stores": {"stores": {"adapters": "s3://land/adapters", "models": "s3://land/models"}, "web": {"processes": 4}},
    "keda": {"workers": {"pools": [GPU], "autoscaling": {"enabled": True}}, "monitoring": {"enabled": True}},
    "ray": {
        "settings": TWO_BASES,
        "trainer": {"replicas": 0},
        "networkPolicy": {"enabled": True},
        "workers": {"ray": {"enabled": True, "replicas": f"1-4,{MISTRAL}=2", "replicaGpus": 0.5}},
    },
    "hpa": {
        "workers": {"autoscaling": {"enabled": True, "kind": "hpa"}},
        "web": {"autoscaling": {"enabled": True}},
        "storage": {"existingClaim": "files"},
    },
}
every_set = pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What the chart makes of `values`."""
    return json.loads(_rendered(json.dumps(values)))


@cache
def _rendered(values: str) -> str:
    with Chart.load(CHART) as chart:
        files = chart.render(json.loads(values), name="land", namespace="models")
    texts = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return json.dumps([resource for text in texts for resource in yaml.safe_load_all(text) if resource])


def found(values: dict[str, Any], kind: str, name: str = "") -> dict[str, Any]:
    [resource] = [each for each in rendered(values) if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return resource


def pods(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of all Deployments, Jobs and nodes of Ray, with their resource's name."""
    for resource in rendered(values):
        name, spec = resource["metadata"]["name"], resource["spec"]
        if resource["kind"] in ("Deployment", "Job"):
            yield name, spec["template"]["spec"]
        if resource["kind"] == "RayCluster":
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                yield name, group["template"]["spec"]


def containers(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(values):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield name, container


def templates(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """The templates of pods in a RayCluster."""
    if resource["kind"] != "RayCluster":
        return []
    return [group["template"] for group in (resource["spec"]["headGroupSpec"], *resource["spec"]["workerGroupSpecs"])]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


@every_set
def test_helm_finds_nothing_wrong_with_it(values: dict[str, Any]) -> None:
    report = lint(str(CHART), values, strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@every_set
@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_what_kubernetes_takes(values: dict[str, Any], version: str) -> None:
    for resource in rendered(values):
        own = SCHEMAS / f"{resource['apiVersion'].partition('/')[0]}.{resource['kind']}.json"
        if own.exists():
            jsonschema.validate(resource, json.loads(own.read_text()))
            for template in templates(resource):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
                kubernetes_validate.validate(pod, version, strict=True)
        else:
            kubernetes_validate.validate(resource, version, strict=True)


def test_what_kubernetes_does_not_take_is_found() -> None:
    web = found({}, "Deployment", "-web")
    web["spec"]["template"]["spec"]["containers"][0]["comand"] = ["x"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(web, "1.31", strict=True)


@every_set
def test_no_two_resources_have_one_name_and_each_selects_its_own_pods(values: dict[str, Any]) -> None:
    named = [(resource["kind"], resource["metadata"]["name"]) for resource in rendered(values)]
    assert len(named) == len(set(named))
    for resource in rendered(values):
        if resource["kind"] == "Deployment":
            spec = resource["spec"]
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@every_set
def test_every_command_and_probe_calls_what_exists(values: dict[str, Any]) -> None:
    called = [container["command"] for _, container in containers(values) if "command" in container]
    asked = []
    for _, container in containers(values):
        probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness")]
        called += [probe["exec"]["command"] for probe in probes if "exec" in probe]
        asked += [probe["httpGet"]["path"] for probe in probes if "httpGet" in probe]
    assert [command for command in called if missing(command)] == []
    assert set(asked) <= {"/healthz", "/readyz"}


@every_set
def test_every_container_that_stays_up_is_looked_at_and_bounded(values: dict[str, Any]) -> None:
    for name, pod in pods(values):
        for container in pod["containers"]:
            assert container["resources"]["limits"]["memory"], name
            assert "readinessProbe" in container or pod["restartPolicy"] in ("Never", "OnFailure"), name


@every_set
def test_no_process_is_root_or_writes_beside_its_volumes(values: dict[str, Any]) -> None:
    for name, pod in pods(values):
        assert pod["securityContext"]["runAsNonRoot"], name
        is_head = pod["containers"][0]["name"] == "ray-head"
        assert pod["automountServiceAccountToken"] is is_head, "the autoscaler of Ray asks Kubernetes for nodes"
    for name, container in containers(values):
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False), name
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", environment(container)["VAR_DIR"]} <= mounted, name


@every_set
def test_every_variable_that_it_sets_is_documented(values: dict[str, Any]) -> None:
    of_kubernetes = {"POD_NAME", "POD_IP", "HOME"}
    for name, container in containers(values):
        assert set(environment(container)) - documented() - of_kubernetes == set(), name


def test_secrets_are_named_and_never_written_down() -> None:
    web = found({}, "Deployment", "-web")["spec"]["template"]["spec"]["containers"][0]
    secret = {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in web["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    assert secret == {name: {"name": "loraland", "key": name} for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL")}


def test_migrations_come_before_anything_else_and_need_no_volume_of_the_release() -> None:
    job = found({}, "Job", "-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert all("persistentVolumeClaim" not in volume for volume in job["spec"]["template"]["spec"]["volumes"])


def test_a_pod_of_the_web_leaves_the_service_before_its_processes_end() -> None:
    pod = found({"web": {"drainSeconds": 7}}, "Deployment", "-web")["spec"]["template"]["spec"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert pod["terminationGracePeriodSeconds"] > 7 + 15


def test_probes_ask_by_a_name_that_the_site_answers_to_and_prometheus_by_the_pods_address() -> None:
    web = found(SETS["ingress"], "Deployment", "-web")["spec"]["template"]["spec"]["containers"][0]
    headers = {header["name"]: header["value"] for header in web["livenessProbe"]["httpGet"]["httpHeaders"]}
    assert headers == {"Host": "land.example.org", "X-Forwarded-Proto": "https"}
    assert environment(web)["ALLOWED_HOSTS"] == "land.example.org,www.example.org,$(POD_IP)"
    assert environment(web)["CSRF_TRUSTED_ORIGINS"] == "https://land.example.org,https://www.example.org"


def test_a_pool_serves_its_base_under_the_name_that_its_probe_asks_for() -> None:
    worker = found(SETS["gpu"], "Deployment", "-worker-mistral")["spec"]["template"]["spec"]["containers"][0]
    assert environment(worker)["WORKERS"] == f"0,{MISTRAL}=1"
    assert f'"$WORKER_NAME-{base_key(MISTRAL)}"' in worker["readinessProbe"]["exec"]["command"][2]
    alone = {"settings": {"BASE_MODELS": MISTRAL}, "workers": {"pools": [GPU]}}
    worker = found(alone, "Deployment", "-worker-mistral")["spec"]["template"]["spec"]["containers"][0]
    assert worker["readinessProbe"]["exec"]["command"][2].endswith('--name "$WORKER_NAME"')


def test_pods_share_a_claim_unless_everything_comes_from_stores() -> None:
    def claims(values: dict[str, Any]) -> set[str]:
        volumes = [volume for _, pod in pods(values) for volume in pod["volumes"]]
        return {each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each}

    def fetched(values: dict[str, Any]) -> dict[str, list[str]]:
        fetching = [each for each in containers(values) if each[1]["name"] == "base"]
        return {name.rpartition("-")[2]: container["command"][3:] for name, container in fetching}

    assert (claims({}), fetched({})) == ({"land-loraland-var"}, {"cpu": []})
    assert claims({"stores": {"adapters": "s3://land/adapters"}}) == {"land-loraland-var"}
    for folder in ("adapters", "models"):
        in_a_folder = {"stores": SETS["stores"]["stores"] | {folder: f"file:///var/lib/loraland/{folder}"}}
        assert claims(in_a_folder) == {"land-loraland-var"}
    assert claims(SETS["hpa"]) == {"files"}
    assert claims(SETS["stores"]) == set()
    assert fetched(SETS["stores"]) == {"web": ["--without-weights"], "celery": ["--without-weights"], "trainer": []}
    for values in (SETS["hpa"], SETS["stores"]):
        assert "PersistentVolumeClaim" not in {resource["kind"] for resource in rendered(values)}


def test_the_ingress_holds_no_stream_back_and_leaves_the_size_of_bodies_to_the_site() -> None:
    ingress = found(SETS["ingress"], "Ingress")
    told = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert (told["proxy-body-size"], told["proxy-buffering"], told["proxy-request-buffering"]) == ("0", "off", "off")
    assert int(told["proxy-read-timeout"]) >= 3600
    assert ingress["spec"]["tls"] == [{"secretName": "loraland-tls", "hosts": SETS["ingress"]["site"]["hosts"]}]


def test_workers_follow_a_metric_that_the_site_tells_and_never_its_sum() -> None:
    query = found(SETS["keda"], "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    assert query == 'max(loraland_base_queue_length{base="Mistral-7B-v0.1"})'
    metric = found(SETS["hpa"], "HorizontalPodAutoscaler", "-worker-cpu")["spec"]["metrics"][0]["external"]["metric"]
    told = (REPO / "loraland" / "api" / "metrics.py").read_text()
    assert all(f'"{name}"' in told for name in (*re.findall(r"loraland_\w+", query), metric["name"]))


def test_whatever_is_scaled_by_itself_states_no_number_of_replicas() -> None:
    scaled = {
        resource["spec"]["scaleTargetRef"]["name"]
        for resource in rendered(SETS["hpa"])
        if resource["kind"].startswith("Horizontal")
    }
    assert scaled == {"land-loraland-web", "land-loraland-worker-cpu"}
    for name in scaled:
        assert "replicas" not in found(SETS["hpa"], "Deployment", name)["spec"]


def test_on_ray_a_cluster_stands_in_for_the_pools_and_is_told_the_plan_by_its_heads_environment() -> None:
    cluster = found(SETS["ray"], "RayCluster")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    plan = read_plan(environment(head) | {"REDIS_URL": "redis://redis", "WORKER_NAME": "land-ray-head-x7k2p"})
    assert [(pool.key, pool.bounds.low, pool.bounds.high, pool.gpus) for pool in plan.pools] == [
        ("smollm2-135m-instruct", 1, 4, 0.5),
        ("mistral-7b-v0.1", 2, 2, 0.5),
    ]
    job = found(SETS["ray"], "Job", "-plan")["spec"]["template"]["spec"]["containers"][0]
    assert f"http://{cluster['metadata']['name']}-head-svc:8265" in job["command"]
    assert not [each for each in rendered(SETS["ray"]) if "-worker-" in each["metadata"]["name"]]
    assert cluster["spec"]["rayVersion"] == re.search(r"^ray==(.+)$", CONSTRAINTS, re.MULTILINE)[1]


def test_another_image_has_another_ray_cluster_and_the_same_has_the_same() -> None:
    again = {**SETS["ray"], "recorder": {"replicas": 3}}
    newer = {**SETS["ray"], "image": {"tag": "0.2.0"}}
    names = [found(values, "RayCluster")["metadata"]["name"] for values in (SETS["ray"], again, newer)]
    assert names[0] == names[1] != names[2]


def test_a_node_is_drained_where_a_pod_is_the_only_one_of_its_kind() -> None:
    guarded = {each["metadata"]["name"] for each in rendered(SETS["gpu"]) if each["kind"] == "PodDisruptionBudget"}
    assert guarded == {"land-loraland-web", "land-loraland-recorder", "land-loraland-worker-mistral"}
    guarded = {
        each["metadata"]["name"] for each in rendered({"web": {"replicas": 1}}) if each["kind"] == "PodDisruptionBudget"
    }
    assert guarded == {"land-loraland-recorder"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"web": {"replicas": "many"}}, "/web/replicas"),
        ({"web": {"readinessPath": "/ready"}}, "/web/readinessPath"),
        ({"webb": {}}, "webb"),
        ({"existingSecret": ""}, "/existingSecret"),
        ({"site": {"hosts": []}}, "/site/hosts"),
        ({"site": {"hosts": ["https://example.org"]}}, "/site/hosts/0"),
        ({"ingress": {"enabled": True}}, "/site/trustedProxies"),
        ({"stores": {"adapters": "bucket/adapters"}}, "/stores/adapters"),
        ({"settings": {"SECRET_KEY": "typed here"}}, "SECRET_KEY"),
        ({"settings": {"max_rows": 3}}, "max_rows"),
        ({"storage": {"size": "many"}}, "/storage/size"),
        ({"workers": {"pools": [{**GPU, "device": "tpu"}]}}, "/workers/pools/0/device"),
        ({"workers": {"pools": [{**GPU, "name": "Mistral 7B"}]}}, "/workers/pools/0/name"),
        ({"workers": {"autoscaling": {"kind": "cron"}}}, "/workers/autoscaling/kind"),
        ({"workers": {"ray": {"enabled": True, "replicas": "some"}}}, "/workers/ray/replicas"),
        ({"workers": {"ray": {"groups": []}}}, "/workers/ray/groups"),
        ({"recorder": {"replicas": 0}}, "/recorder/replicas"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_cannot_be_meant_are_refused_and_named(values: dict[str, Any], told: str) -> None:
    with pytest.raises(HelmError) as refusal:
        rendered(values)
    assert told in str(refusal.value)
