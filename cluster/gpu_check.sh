#!/usr/bin/env bash
# Everything that wants a GPU, in at most 8 minutes, without the network: on a machine with a GPU, Python, and torch and
# transformers for CUDA, but nothing else.
#
#   cluster/gpu_check.sh pack            beforehand, with the network: what such a machine lacks, into wheels/
#   cluster/gpu_check.sh pack sweep      the same for sweeps: Ray and what it comes with, in parts of 40 MB
#   cluster/gpu_check.sh                 there: tests, benchmarks, a sweep; figures and log into $OUT, gpu_check by default
#
# May be repeated: what is installed stays. Each part has its time; what fails or takes longer is said, and the next begins.
set -uo pipefail
cd "$(dirname "$0")/.."
WHEELS=${WHEELS:-wheels}
OUT=$(realpath -m "${OUT:-gpu_check}")
SITE=${SITE:-/tmp/gallop_ray_site}
PYTHON=${PYTHON:-python3}
TRAINING="hjson msgpack einops py-cpuinfo psutil peft pydantic pydantic_core annotated-types typing-inspection optuna
    colorlog pytest iniconfig pluggy pygments transformers tokenizers safetensors huggingface_hub hf-xet httpx2 httpcore2 h11
    anyio idna certifi truststore typer click shellingham annotated-doc rich markdown-it-py mdurl tqdm regex filelock fsspec
    packaging typing_extensions"
SWEEPS="ray datasets pyarrow pandas python-dateutil six multiprocess dill xxhash datasketch scipy mlflow mlflow-skinny
    mlflow-tracing alembic sqlalchemy greenlet mako cloudpickle cachetools sqlparse opentelemetry-api opentelemetry-sdk
    opentelemetry-proto opentelemetry-semantic-conventions protobuf importlib_metadata zipp gitpython gitdb smmap
    databricks-sdk google-auth pyasn1 pyasn1_modules fastapi starlette uvicorn matplotlib contourpy cycler fonttools kiwisolver
    pyparsing pillow rich markdown-it-py mdurl tensorboardX jsonschema jsonschema-specifications referencing rpds-py attrs
    aiohttp aiosignal aiohappyeyeballs frozenlist multidict propcache yarl skops scikit-learn joblib threadpoolctl docker
    graphene graphql-core graphql-relay flask flask-cors werkzeug itsdangerous blinker huey gunicorn prettytable"

pack() {
    local names versions=()
    mkdir -p "$WHEELS"
    names=$([ "${1:-}" = sweep ] && echo "$SWEEPS" || echo "$TRAINING")
    for name in $names; do # in the versions of constraints.txt, whose names differ in case and dashes
        versions+=("$(grep -iE "^${name//[-_]/[-_]}==" constraints.txt || echo "$name")")
    done
    local platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64)
    $PYTHON -m pip download -q --no-deps --only-binary=:all: --python-version "${FOR_PYTHON:-3.12}" --implementation cp \
        "${platforms[@]}" -d "$WHEELS" "${versions[@]}" || return 1
    if [ "${1:-}" != sweep ]; then # a source distribution; it compiles what it needs when it needs it, here nothing
        DS_BUILD_OPS=0 $PYTHON -m pip wheel -q --no-deps -w "$WHEELS" "$(grep '^deepspeed==' constraints.txt)" || return 1
    fi
    find "$WHEELS" -name '*.whl' -size +40M | while read -r wheel; do
        split -b 40m "$wheel" "$wheel.part-" && rm "$wheel"
    done
    du -ch "$WHEELS"/* | tail -1
}

install() {
    local whole=$SITE/wheels
    mkdir -p "$whole"
    cp -n "$WHEELS"/*.whl* "$whole" 2> /dev/null
    for first in "$whole"/*.part-aa; do # parts may come in several calls: what is not whole yet is not installed either
        [ -e "$first" ] && [ ! -e "${first%.part-aa}.installed" ] && cat "${first%aa}"* > "${first%.part-aa}"
    done
    for wheel in "$whole"/*.whl; do
        [ -e "$wheel" ] || continue
        [ -e "$wheel.installed" ] && continue
        $PYTHON -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE/packages" --upgrade "$wheel" \
            && touch "$wheel.installed"
    done
    $PYTHON - << 'END'
import json, os, platform, sys
from importlib import metadata
import torch
names = ("torch", "triton", "transformers", "deepspeed", "peft", "ray", "mlflow", "datasets", "optuna", "pydantic")
found = {each.metadata["Name"].lower(): each.version for each in metadata.distributions() if each.metadata["Name"]}
card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
said = {
    "python": platform.python_version(),
    "cuda": torch.version.cuda,
    "gpu": card and card.name,
    "gpu_bytes": card and card.total_memory,
    "packages": {name: found.get(name) for name in names},
}
print(json.dumps(said, indent=2))
json.dump(said, open(os.path.join(os.environ["OUT"], "machine.json"), "w"), indent=2)
sys.exit(0 if card and all(map(found.get, ("deepspeed", "peft", "pydantic"))) else "no GPU, or a package is missing: see above")
END
}

# part NAME SECONDS COMMAND...
part() {
    local name=$1 limit=$2 begun=$SECONDS code
    shift 2
    echo "== $name" | tee -a "$OUT/log.txt"
    timeout --kill-after=10 "$limit" "$@" > "$OUT/part.txt" 2>&1
    code=$?
    cat "$OUT/part.txt" >> "$OUT/log.txt"
    local said="failed ($code)"
    case $code in 0) said=done ;; 124 | 137) said="out of time" ;; esac
    [ "$code" = 0 ] && tail -n 4 "$OUT/part.txt" || tail -n 25 "$OUT/part.txt"
    rm "$OUT/part.txt"
    echo "$name: $said, $((SECONDS - begun)) s of $limit" | tee -a "$OUT/log.txt"
    echo "{\"part\": \"$name\", \"ended\": \"$said\", \"seconds\": $((SECONDS - begun)), \"limit\": $limit}" >> "$OUT/parts.jsonl"
    return "$code"
}

if [ "${1:-}" = pack ]; then
    pack "${2:-}"
    exit
fi
mkdir -p "$OUT"
rm -f "$OUT/parts.jsonl" "$OUT/log.txt"
export OUT PYTHONPATH="$PWD:$SITE/packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export -f install
export WHEELS SITE PYTHON
part packages 80 bash -c install || exit 1
worst=0
pytest=("$PYTHON" -m pytest -m gpu -p no:cacheprovider -q)
part tests 120 "${pytest[@]}" tests/gpu --ignore tests/gpu/test_sweep.py --junitxml "$OUT/tests.xml" || worst=1
part kernel 30 "$PYTHON" -m benchmarks kernel --out "$OUT" || worst=1
part steps 160 "$PYTHON" -m benchmarks gpu --out "$OUT" || worst=1
if $PYTHON -c 'import ray, datasets' 2> /dev/null; then
    part sweep 80 "${pytest[@]}" tests/gpu/test_sweep.py || worst=1
else
    echo '{"part": "sweep", "ended": "left out: no ray or no datasets", "seconds": 0}' | tee -a "$OUT/parts.jsonl"
fi
cat "$OUT/parts.jsonl"
exit $worst
