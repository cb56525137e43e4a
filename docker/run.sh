#!/usr/bin/env bash
# Builds the service's image, brings up the whole stack and asks it a question: docker/run.sh [qdrant|milvus] [cpu|cuda]
# Ends with 3, and says so, where no Docker answers, and with 4 where cuda is asked for and a container sees no GPU.
# The stack stays up; docker/run.sh down removes it and its data.
set -euo pipefail
cd "$(dirname "$0")/.."
store=${1:-qdrant}
export VARIANT=${2:-cpu}

compose=(docker compose -f docker/stack/compose.yaml)
case "$store $VARIANT" in
    "qdrant cpu" | "milvus cpu" | down\ *) ;;
    "qdrant cuda" | "milvus cuda") compose+=(-f docker/stack/cuda.yaml) ;;
    *) echo "usage: docker/run.sh [qdrant|milvus|down] [cpu|cuda]" >&2; exit 2 ;;
esac
if ! command -v docker >/dev/null || ! docker info >/dev/null 2>&1; then
    echo "No Docker answers here: nothing was built, and nothing was started." >&2
    exit 3
fi
[ "$store" != down ] || exec "${compose[@]}" --profile qdrant --profile milvus down --volumes

docker build --file docker/service/Dockerfile --build-arg VARIANT="$VARIANT" --tag "imrnn-vdb:$VARIANT" .
sees_gpu="import sys, torch; sys.exit(not torch.cuda.is_available())"
if [ "$VARIANT" = cuda ] && ! docker run --rm --gpus 1 --entrypoint python imrnn-vdb:cuda -c "$sees_gpu"; then
    echo "No GPU is seen in a container here: docker/run.sh $store cpu, or install the NVIDIA Container Toolkit." >&2
    exit 4
fi
echo "starting, and loading the example (some minutes on a CPU)"
"${compose[@]}" --profile "$store" up --detach # ends when the example is loaded: the service waits for that
echo "the example is loaded; waiting for the service"
container=$("${compose[@]}" --profile "$store" ps --all --quiet "service-$store")
for _ in $(seq 60); do
    state=$(docker inspect --format '{{.State.Health.Status}}' "$container")
    [ "$state" != healthy ] || break
    sleep 2
done
[ "$state" = healthy ] || { "${compose[@]}" logs "service-$store" >&2; echo "the service is $state" >&2; exit 1; }
"${compose[@]}" --profile "$store" exec -T "service-$store" python - <<'PYTHON'
from imrnn_vdb.serving import ServiceClient

with ServiceClient("127.0.0.1:50061") as client:
    for result in client.search("pydocs", "pick a random winner from a list of names", limit=3):
        print(result.rank, result.base_rank, result.id, round(result.score, 3))
PYTHON
echo "service 127.0.0.1:50061, metrics http://127.0.0.1:9464/metrics, Grafana http://127.0.0.1:3000/d/imrnn-vdb"
