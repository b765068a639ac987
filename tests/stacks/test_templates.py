"""What the templates render to, for shipped profiles and with a site's overlays. No cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign.errors import ProfileError
from sovereign.job_inputs import JobInputs, StoredInput
from sovereign.plan import plan
from sovereign.profile import EmbeddedTarget, Profile, Source
from sovereign.profile_curation import Curation
from sovereign.render import render_template, render_text
from sovereign.stages import CHECKS, STAGES
from sovereign.workload import ServedModel, job_context, slurm_context
from stacks.objects import STACKS, objects_for
from tests.stacks.platforms import platform, pod_runtime, shipped_profile

GOLDEN = Path(__file__).parent / "golden"
PROFILES = ("ci", "demo", "site", "nation")
Object = dict[str, Any]


def job(name: str, stage: str, profile: Profile | None = None) -> list[Object]:
    profile = profile or shipped_profile(name)
    inputs = JobInputs(StoredInput(f"raw/{name}/inputs/0", "0"))
    context = job_context(
        profile,
        plan(profile),
        pod_runtime(profile),
        name=f"{name}-{stage}",
        stage=stage,
        key="abc",
        inputs=inputs,
    )
    return render_template("training/job", context)


def rendered(name: str, folder: str) -> list[Object]:
    if folder == "training":  # corpus reads folders of this machine, which only the embedded node's pods see
        on_node = isinstance(shipped_profile(name).target, EmbeddedTarget)
        return [item for stage in ("corpus" if on_node else "curate", "train") for item in job(name, stage)]
    return objects_for(folder, platform(name))


@pytest.mark.parametrize("folder", [*STACKS, "training"])
@pytest.mark.parametrize("name", PROFILES)
def test_golden(name: str, folder: str, update_golden: bool) -> None:
    path = GOLDEN / name / f"{folder}.yaml"
    text = yaml.safe_dump_all(rendered(name, folder), sort_keys=False, width=120, allow_unicode=True)
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, (
        f"pytest tests/stacks --update-golden, then read the diff of {path}"
    )


@pytest.mark.parametrize("name", ["demo", "site"])
def test_golden_slurm(name: str, update_golden: bool, tmp_path: Path) -> None:
    profile, path = shipped_profile(name), GOLDEN / name / "slurm.sbatch"
    context = slurm_context(
        profile,
        plan(profile),
        python="/opt/sovereign/bin/python",
        profile_path=Path("/shared/a site/profile.yaml"),
        data_dir=Path("/shared/a site/data"),
    )
    text = render_text("training/slurm.sbatch.j2", context)
    if update_golden:
        path.write_text(text)
    assert path.read_text() == text, f"pytest tests/stacks --update-golden, then read the diff of {path}"
    subprocess.run(["bash", "-n", path], check=True)
    recipe = plan(profile).recipe
    assert context["slurm"]["nodes"] * context["slurm"]["ranks_per_node"] == recipe.world_size
    # What bash gives to srun, word by word.
    line = next(line for line in text.splitlines() if line.startswith("exec srun"))
    words = subprocess.run(["bash", "-c", line.replace("exec srun", "printf '%s\\n'")], capture_output=True, text=True)
    assert words.stdout.splitlines()[2:] == context["slurm"]["command"]


@pytest.mark.parametrize(("name", "gpus"), [("demo", None), ("nation", 2)])
def test_preflight_is_one_process_whose_failure_is_final(name: str, gpus: int | None) -> None:
    """It starts its own ranks, on two GPUs where there are some."""
    found = next(item for item in job(name, "preflight") if item["kind"] == "Job")["spec"]
    container = found["template"]["spec"]["containers"][0]
    assert found["completions"] == 1 and container["command"][1:5] == ["-m", "sovereign.stages", "run", "preflight"]
    assert found["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [1, 2]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus


def pod_templates(name: str) -> Iterator[tuple[str, str, Object]]:
    for folder in (*STACKS, "training"):
        for item in rendered(name, folder):
            if item["kind"] in ("Deployment", "StatefulSet", "Job"):
                yield item["metadata"]["namespace"], item["metadata"]["name"], item["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", PROFILES)
def test_every_pod_is_restricted(name: str) -> None:
    pods = list(pod_templates(name))
    assert len(pods) == 5
    for _, owner, pod in pods:
        assert pod["automountServiceAccountToken"] is False, owner
        assert pod["enableServiceLinks"] is False, owner
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 65532, owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] and not confined["allowPrivilegeEscalation"], container["name"]
            assert confined["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert "cpu" in container["resources"]["requests"] and "memory" in container["resources"]["limits"]
            assert "cpu" not in container["resources"]["limits"], f"{container['name']} would be throttled"
        for volume in pod["volumes"]:
            assert volume.keys() & {"emptyDir", "configMap", "persistentVolumeClaim"}, f"{volume} is not allowed"


def test_services_fit_beside_the_nodes_own() -> None:
    requests = [
        int(container["resources"]["requests"]["cpu"].removesuffix("m"))
        for namespace, _, pod in pod_templates("demo")
        if namespace != "training"
        for container in pod["containers"]
    ]
    kueue_m = 100
    assert sum(requests) + kueue_m <= 550


@pytest.mark.parametrize("name", PROFILES)
def test_secrets_stand_in_secrets_only(name: str) -> None:
    for stack in STACKS:
        for item in objects_for(stack, platform(name)):
            assert item["kind"] == "Secret" or "made-up-key" not in yaml.safe_dump(item)


DATABASE = Source(
    name="decrees",
    path="postgresql://reader@one.example.org:6432,two.example.org/gazette",
    query="SELECT body AS text FROM decree",
    owner="O",
    licence="CC0-1.0",
    language="fr",
)
PGPASS = '*:6432:gazette:reader:made\\\\up "word"\n# another\n*:5432:gazette:reader:made-up-too\n'


@pytest.mark.parametrize("name", ["demo", "site"])
def test_databases_passwords_reach_the_pod_of_corpus_only(name: str) -> None:
    wanted = platform(name, sources=(DATABASE,), database_passwords=PGPASS)
    objects = [item for stack in STACKS for item in objects_for(stack, wanted)]
    (secret,) = (item for item in objects if "made-up-too" in yaml.safe_dump(item))
    assert (secret["kind"], secret["metadata"]["namespace"]) == ("Secret", "training")
    assert secret["stringData"] == {"pgpass": PGPASS}
    mounting = []
    for stage in (*STAGES, *CHECKS):
        rendered_job = job(name, stage, wanted.profile)
        assert "made-up-too" not in yaml.safe_dump(rendered_job)
        (found,) = (item for item in rendered_job if item["kind"] == "Job")
        pod = found["spec"]["template"]
        if any("secret" in volume for volume in pod["spec"]["volumes"]):
            mounting.append((stage, pod))
        assert ("SOVEREIGN_PGPASSFILE" in yaml.safe_dump(found)) == (stage == "corpus")
    ((stage, pod),) = mounting
    (container,) = pod["spec"]["containers"]
    (volume,) = (one for one in pod["spec"]["volumes"] if "secret" in one)
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == volume["name"])
    (named,) = (one["value"] for one in container["env"] if one["name"] == "SOVEREIGN_PGPASSFILE")
    assert stage == "corpus" and mount["readOnly"]
    assert volume["secret"] == {"secretName": secret["metadata"]["name"], "optional": True, "defaultMode": 0o400}
    assert [Path(mount["mountPath"]) / key for key in secret["stringData"]] == [Path(named)]
    (policy,) = (
        item for item in objects if item["metadata"]["name"] == "databases" and item["kind"] == "NetworkPolicy"
    )
    assert [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]] == [5432, 6432]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_without_a_database_or_its_password_there_is_no_secret_for_it() -> None:
    shipped = [item["metadata"]["name"] for item in objects_for("cluster", platform("demo"))]
    assert "databases" not in shipped
    without = objects_for("cluster", platform("demo", sources=(DATABASE,)))
    assert [item["kind"] for item in without if item["metadata"]["name"] == "databases"] == ["NetworkPolicy"]


def test_what_is_no_address_of_a_database_is_named() -> None:
    wrong = DATABASE.model_copy(update={"path": "postgresql://reader@host:none/gazette"})
    with pytest.raises(ProfileError, match="source decrees has no address of a database"):
        objects_for("cluster", platform("demo", sources=(wrong,)))


def test_without_a_champion_nothing_is_served() -> None:
    (deployment,) = (x for x in objects_for("serving", platform("demo", champion=None)) if x["kind"] == "Deployment")
    assert deployment["spec"]["replicas"] == 0


def _server(name: str, champion: ServedModel | None) -> dict[str, Any]:
    """Containers of the model server's pod by their names."""
    objects = objects_for("serving", platform(name, champion=champion))
    (deployment,) = (item for item in objects if item["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    return {container["name"]: container for container in (*pod["initContainers"], *pod["containers"])}


def test_s_llama_cpp_loads_what_was_registered_for_it() -> None:
    found = _server("demo", ServedModel("a" * 64, "b" * 64))
    assert f"models/demo/register/{'a' * 64}.served/" in found["fetch"]["command"]
    assert "b" * 64 in found["fetch"]["command"]
    assert f"/models/{'b' * 64}/model.gguf" in found["engine"]["command"]
    assert found["engine"]["resources"]["limits"]["memory"] in {f"{number}M" for number in range(150, 400)}
    assert "ports" not in found["engine"]  # it listens on loopback


def test_s_a_model_that_cannot_be_a_gguf_is_served_by_transformers() -> None:
    found = _server("demo", ServedModel("a" * 64))
    assert f"models/demo/register/{'a' * 64}/" in found["fetch"]["command"]
    assert found["engine"]["command"][2:5] == ["training.engine_server", "--model", f"/models/{'a' * 64}"]
    assert f"/models/{'a' * 64}" in found["front"]["command"]


def test_s_vllm_is_served_from_safetensors() -> None:
    found = _server("site", ServedModel("a" * 64, "b" * 64))
    assert f"models/site/register/{'a' * 64}/" in found["fetch"]["command"]
    assert found["server"]["command"][:3] == ["vllm", "serve", f"/models/{'a' * 64}"]


def test_ranks_find_each_other() -> None:
    service, training = (item for item in job("site", "train") if item["kind"] in ("Service", "Job"))
    pod = training["spec"]["template"]["spec"]
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    name = training["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["metadata"]["name"] == pod["subdomain"]
    assert env["MASTER_ADDR"] == f"{name}-0.{pod['subdomain']}"
    assert training["spec"]["completions"] == training["spec"]["parallelism"] == 8


@pytest.mark.parametrize(("name", "ranks", "pods"), [("ci", 4, 4), ("ci", 9, 4), ("site", 64, 64), ("ci", 1, 1)])
def test_curation_has_a_pod_for_each_rank_that_fits(name: str, ranks: int, pods: int) -> None:
    profile = shipped_profile(name)
    corpus = profile.corpus.model_copy(update={"curation": Curation(ranks=ranks)})
    profile = profile.model_copy(update={"corpus": corpus})
    context = job_context(
        profile,
        plan(profile),
        pod_runtime(profile),
        name="c",
        stage="curate",
        key="k",
        inputs=JobInputs(StoredInput("raw/c/inputs/0", "0")),
    )
    found = next(item for item in render_template("training/job", context) if item["kind"] == "Job")["spec"]
    container = found["template"]["spec"]["containers"][0]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert found["completions"] == found["parallelism"] == pods and env["WORLD_SIZE"] == str(pods)
    assert "RANK" in env and container["command"][1:5] == ["-m", "sovereign.stages", "run", "curate"]
    quota, requests = plan(profile).quota, container["resources"]["requests"]
    assert pods * int(requests["cpu"].removesuffix("m")) <= quota.cpu_m
    assert pods * int(requests["memory"].removesuffix("G")) <= quota.memory_gb
    assert "nvidia.com/gpu" not in requests


def test_overlay_replaces_and_adds(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "rbac.yaml.j2").write_text("# no trainers here\n")
    (tmp_path / "cluster" / "banner.yaml.j2").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: banner, namespace: {{ namespaces[0] }}}\n"
    )
    shipped = {(x["kind"], x["metadata"]["name"]) for x in objects_for("cluster", platform("demo"))}
    own = {(x["kind"], x["metadata"]["name"]) for x in objects_for("cluster", platform("demo", overlays=(tmp_path,)))}
    assert own - shipped == {("ConfigMap", "banner")}
    assert shipped - own == {("Role", "trainer"), ("RoleBinding", "trainers")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: {{ plan.quota.cpus }}\n", ("extra/x.yaml.j2, line 2", "cpus")),
        ("a: {{ nothing }}\n", ("extra/x.yaml.j2, line 1", "'nothing' is undefined")),
        ("a: 1\n{% if %}\n", ("extra/x.yaml.j2, line 2",)),
        ("a: [1\n", ("does not render to YAML",)),
        ("a: 1\n", ("no Kubernetes object",)),
    ],
)
def test_errors_name_template_line_and_variable(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "x.yaml.j2").write_text(text)
    with pytest.raises(ProfileError) as caught:
        platform("demo", overlays=(tmp_path,)).render("extra/x")
    for part in expected:
        assert part in str(caught.value)


def test_one_object_from_two_templates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "model2.yaml.j2").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: model, namespace: serving}\n"
    )
    with pytest.raises(ProfileError, match="Service/serving/model twice"):
        objects_for("serving", platform("demo", overlays=(tmp_path,)))


@pytest.mark.filterwarnings("ignore")  # of MLflow's own
@pytest.mark.parametrize("name", ["demo", "site"])
def test_sec17_mlflow_answers_to_exact_hosts_only(name: str) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    objects = rendered(name, "datalake")
    server = next(o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "mlflow")
    service = next(o for o in objects if o["kind"] == "Service" and o["metadata"]["name"] == "mlflow")
    command = server["spec"]["template"]["spec"]["containers"][0]["command"]
    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    address = service["spec"].get("clusterIP")
    assert (address is None) == (name == "site")
    for host in ("127.0.0.1:40421", "localhost:5000", "mlflow.lake.svc:5000", "mlflow.lake.svc.cluster.local:5000"):
        assert is_allowed_host_header(allowed, host), host
    assert address is None or is_allowed_host_header(allowed, f"{address}:5000")
    for host in (
        "10.attacker.example", "10.attacker.example:5000", "172.16.evil.example:5000", "192.168.evil.example",
        "localhost.evil.example:5000", "mlflow.lake.svc.evil.example:5000", "10.9.9.9:5000", "127.0.0.1.evil:5000", "*",
        f"{address}.evil.example:5000",
    ):  # fmt: skip
        assert not is_allowed_host_header(allowed, host), host


def test_k11_a_trainer_may_make_nothing_that_reads_a_secret() -> None:
    (role,) = (
        item for item in rendered("demo", "cluster") if item["kind"] == "Role" and item["metadata"]["name"] == "trainer"
    )
    may = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {verb for _, verb in may} == {"get", "list", "watch", "delete"}
    assert {resource for resource, verb in may if verb == "delete"} == {"jobs"}
    assert not any(resource.startswith(("secrets", "*", "pods/exec")) for resource, _ in may)
