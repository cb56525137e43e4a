"""What lies in docker/: images are pinned, files say what the service reads, and no Docker is said to be none."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from imrnn_vdb.serving.config import load_config, split_address
from servers import IMAGES, tag

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
STACK, CUDA = (yaml.safe_load((DOCKER / f"stack/{name}.yaml").read_text()) for name in ("compose", "cuda"))
PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*$")


def test_every_foreign_image_is_pinned():
    images = [
        service["image"]
        for path in DOCKER.glob("*/compose.yaml")
        for service in yaml.safe_load(path.read_text())["services"].values()
        if "image" in service
    ]
    images += re.findall(r"PYTHON_IMAGE=(\S+)", (DOCKER / "service/Dockerfile").read_text())
    foreign = [image for image in images if not image.startswith("imrnn-vdb:")]
    assert len(foreign) >= 5
    assert [image for image in foreign if not PINNED.match(image)] == []


def test_the_image_runs_without_rights_and_checks_its_health():
    lines = (DOCKER / "service/Dockerfile").read_text().splitlines()
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001" in last
    assert any(line.startswith("HEALTHCHECK") for line in last)
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]} - {"--from=build"}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied - {"/opt/imrnn"} <= let_in


def test_databases_are_those_that_the_tests_know_and_the_documentation_names():
    for product, images in IMAGES.items():
        compose = yaml.safe_load((DOCKER / product / "compose.yaml").read_text())
        assert compose["services"][product]["image"] in images
    tested = [
        line for line in (ROOT / "docs/server-versions.md").read_text().splitlines() if line.startswith("| tested")
    ]
    for images, line in zip(IMAGES.values(), tested, strict=True):
        named = set(re.findall(r"\d+\.\d+\.\d+", " ".join(re.findall(r"images [\d., ]+", line))))
        assert named == {tag(image).removeprefix("v") for image in images}


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


@pytest.mark.parametrize("store", ["qdrant", "milvus"])
def test_the_stack_fits_together(store):
    config = load_config(DOCKER / f"stack/{store}.toml")
    service = STACK["services"][f"service-{store}"]
    assert service["init"] is True
    assert seconds(service["stop_grace_period"]) >= config.grace_s + 5
    ports = [int(port.rpartition(":")[2]) for port in service["ports"]]
    assert ports == [split_address(config.listen)[1], split_address(config.telemetry.metrics)[1]]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    config.token()  # refuses to be open without saying so
    [url] = [collection.url for collection in config.collections.values()]
    [command] = STACK["services"][f"load-{store}"]["command"]
    assert url in command
    assert url.startswith(f"{store}://{store}:")
    prometheus = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    [target] = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"service:{ports[1]}"
    for path in (
        volume.split(":")[0] for service in STACK["services"].values() for volume in service.get("volumes", ())
    ):
        assert (DOCKER / "stack" / path).exists(), path


@pytest.mark.parametrize("store", ["qdrant", "milvus"])
def test_on_a_gpu_the_service_gets_one_and_uses_it(store):
    service = CUDA["services"][f"service-{store}"]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    [volume], [replaced] = service["volumes"], STACK["services"][f"service-{store}"]["volumes"]
    path, target = volume.split(":", 1)
    assert target == replaced.split(":", 1)[1], "it takes the other one's place"
    plain, cuda = load_config(DOCKER / f"stack/{store}.toml"), load_config(DOCKER / "stack" / path)
    on_gpu = {name: replace(collection, device="cuda") for name, collection in plain.collections.items()}
    assert cuda == replace(plain, collections=on_gpu)


@pytest.fixture
def docker(tmp_path):
    """Run the script with a Docker that writes down what it is asked; its containers see a GPU, or do not."""

    def run(*arguments: str, gpu: bool = True) -> tuple[int, list[str]]:
        log = tmp_path / "asked"
        log.write_text("")
        command = tmp_path / "docker"
        script = ["#!/bin/sh", f'echo "$*" >> {log}', 'case "$1" in', "inspect) echo healthy ;;"]
        command.write_text("\n".join([*script, f"run) {'true' if gpu else 'false'} ;;", "esac", ""]))
        command.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run([DOCKER / "run.sh", *arguments], env=environment, capture_output=True, timeout=60)
        return done.returncode, log.read_text().splitlines()

    return run


@pytest.mark.parametrize(
    ("variant", "files"),
    [("cpu", "-f docker/stack/compose.yaml"), ("cuda", "-f docker/stack/compose.yaml -f docker/stack/cuda.yaml")],
)
def test_the_script_starts_the_stack_of_its_image(docker, variant, files):
    returncode, asked = docker("milvus", variant)
    assert returncode == 0
    assert f"compose {files} --profile milvus up --detach" in asked
    assert any(line.startswith("build") and f"VARIANT={variant}" in line for line in asked)


def test_the_script_refuses_what_it_does_not_know_and_a_gpu_that_is_not_there(docker):
    for arguments in (["redis"], ["qdrant", "tpu"]):
        assert docker(*arguments) == (2, [])
    returncode, asked = docker("qdrant", "cuda", gpu=False)
    assert returncode == 4
    assert not [line for line in asked if " up " in line]
    assert docker("down") == (
        0,
        ["info", "compose -f docker/stack/compose.yaml --profile qdrant --profile milvus down --volumes"],
    )


def test_the_script_says_where_no_docker_answers():
    environment = {**os.environ, "DOCKER_HOST": "unix:///nonexistent.sock"}
    done = subprocess.run([DOCKER / "run.sh"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr == "No Docker answers here: nothing was built, and nothing was started.\n"
