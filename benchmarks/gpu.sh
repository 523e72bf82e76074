#!/usr/bin/env bash
# Everything to be measured on a machine with a GPU, by one command, without a network.
#
#   benchmarks/gpu.sh                       # all of it, about 30 minutes and the chapters' trainings
#   benchmarks/gpu.sh check                 # right, exact resume, memory           about 5 minutes
#   benchmarks/gpu.sh speed                 # switches, costs, floor, beside peers  about 9 minutes
#   benchmarks/gpu.sh quality               # equal wall time beside peers          see MARKS, SEEDS
#   benchmarks/gpu.sh league                # the trainings that chapters 07, 09 and 10 share
#   benchmarks/gpu.sh chapters 05_dcgan     # built with the gpu profile; no name: 04-10 and 14
#
# Each part, and each chapter, ends by itself within LIMIT seconds (default 590); what it has by
# then is kept. Nothing is installed: python3 must have torch, torchvision, accelerate, safetensors,
# scikit-learn and matplotlib; for the chapters jupytext, nbclient, nbgrader, ipykernel and
# ipywidgets too. What is missing can lie, unpacked, in a folder that SITE names.
#
#   OUT=FOLDER     results as one results.tar.gz there (default: they stay in benchmarks/results)
#   DATA=FOLDER    the data sets, as GENCOURSE_DATA (FashionMNIST, MNIST; speed works without), or
#                  a .tar.gz of what is in that folder
#   PEERS=FOLDER   checkouts of the peers, one subfolder each (default: nothing beside anybody)
#   RUNS=FOLDER    where the league is trained and the chapters find it (default: runs/gpu-build)
#   PYTHON=python3, SITE=FOLDER, LIMIT=590, MARKS="20 60", SEEDS="0", DEVICE=cpu (to try the script)
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-590}
RUNS=${RUNS:-runs/gpu-build}
RESULTS=benchmarks/results
export PYTHONPATH="$PWD${SITE:+:$SITE}${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$RESULTS" "$RUNS" runs/data
if [ -f "${DATA:-}" ]; then
    tar -xzf "$DATA" -C runs/data || exit 1
    DATA=$PWD/runs/data
fi
[ -n "${DATA:-}" ] && GENCOURSE_DATA=$(cd "$DATA" && pwd) && export GENCOURSE_DATA
[ -n "${DEVICE:-}" ] && export GENCOURSE_DEVICE="$DEVICE"
STARTED=$SECONDS
FAILED=()

say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

keep() { # one archive, because few files may come back from such a machine
    [ -n "${OUT:-}" ] || return 0
    mkdir -p "$OUT"
    tar -czf "$OUT/.results" "$RESULTS" chapters/*.ipynb chapters/text README.md 2>/dev/null
    mv "$OUT/.results" "$OUT/results.tar.gz"
}

part() { # part NAME COMMAND…: within what is left of the part's time; failures are told at the end
    local name=$1 left
    shift
    left=$((LIMIT - (SECONDS - STARTED)))
    say "$name: at most $left s"
    if [ "$left" -lt 10 ]; then
        FAILED+=("$name (no time left)")
    elif ! timeout --kill-after=10 "$left" "$@"; then
        FAILED+=("$name")
    fi
    keep
}

loads() { # whether these pictures lie here; without a folder named it would be the network's turn
    [ -n "${GENCOURSE_DATA:-}" ] &&
        "$PYTHON" -c "from gencourse import data; data.load('$1')" 2>/dev/null
}

check() {
    local known=digits
    if loads fashion_mnist; then known=fashion_mnist; else say "no Fashion-MNIST: digits instead"; fi
    part "gpu_check agree, resume, half" \
        "$PYTHON" benchmarks/gpu_check.py --data "$known" ${TINY:+--tiny} --only agree resume half
    # The second call's file would take the place of the first's.
    mv "$RESULTS"/gpu_check-cuda.json "$RESULTS"/gpu_check-right-cuda.json 2>/dev/null
    if [ "$known" = fashion_mnist ] && loads mnist; then
        part "gpu_check memory" "$PYTHON" benchmarks/gpu_check.py --only memory
        mv "$RESULTS"/gpu_check-cuda.json "$RESULTS"/gpu_check-memory-cuda.json 2>/dev/null
    else
        FAILED+=("gpu_check memory (needs Fashion-MNIST and MNIST: set DATA)")
    fi
    keep
}

speed() {
    local known=noise
    if loads fashion_mnist; then known=fashion_mnist; else say "no Fashion-MNIST: noise instead"; fi
    part floor "$PYTHON" benchmarks/floor.py
    part switches "$PYTHON" benchmarks/switches.py --data "$known" --rounds 8
    part costs "$PYTHON" benchmarks/costs.py --data "$known" --only run checkpoint scale
    peers beside_peers.py
    if [ "$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
        part processes "$PYTHON" benchmarks/processes.py --data "$known" --precision float32
    else
        say "processes.py needs two GPUs"
    fi
    part larger_runs "$PYTHON" benchmarks/larger_runs.py
    cp benchmarks/larger_runs.md "$RESULTS"/larger_runs-cuda.md
    keep
}

peers() { # peers SCRIPT OPTIONS…: with every checkout in PEERS
    local script=$1 options=() folder
    shift
    for folder in ${PEERS:+"$PEERS"/*/}; do options+=(--peer "$folder"); done
    if [ ${#options[@]} -eq 0 ]; then
        say "$script needs PEERS"
    else
        part "$script" "$PYTHON" "benchmarks/$script" "${options[@]}" "$@"
    fi
}

quality() {
    # shellcheck disable=SC2086  # several words each
    peers quality.py --marks ${MARKS:-20 60} --seeds ${SEEDS:-0} --out runs/quality
}

league() {
    part league env GENCOURSE_RUNS="$RUNS" "$PYTHON" benchmarks/league.py
}

chapters() {
    local missing stem
    missing=$("$PYTHON" - <<'END'
import importlib.util
names = "jupytext nbclient nbformat nbgrader ipykernel ipywidgets IPython".split()
print(*[name for name in names if importlib.util.find_spec(name) is None])
END
    )
    if [ -n "$missing" ]; then
        FAILED+=("chapters ($missing missing: unpack them into a folder and name it with SITE)")
        return
    fi
    [ $# -gt 0 ] || set -- 04 05 06 07 08 09 10 14
    for stem in "$@"; do
        STARTED=$SECONDS # each chapter has the whole limit
        part "chapter $stem" \
            "$PYTHON" tools/build.py one "$stem" --profile "${PROFILE:-gpu}" --runs "$RUNS"
    done
}

if ! "$PYTHON" -c "import torch" 2>/dev/null; then
    echo "$PYTHON has no torch: name one that has with PYTHON=…; nothing is installed here." >&2
    exit 1
fi
if [ -z "${DEVICE:-}" ] && ! "$PYTHON" -c "import torch; assert torch.cuda.is_available()" 2>/dev/null; then
    echo "torch sees no CUDA device here (DEVICE=cpu tries the script without one)." >&2
    exit 1
fi
"$PYTHON" -c "from gencourse import runtime; print(runtime.describe())" || exit 1

case "${1:-all}" in
    check | speed | quality | league) "$1" ;;
    chapters)
        shift
        chapters "$@"
        ;;
    all)
        for each in check speed quality league chapters; do
            STARTED=$SECONDS
            "$each"
        done
        ;;
    *)
        sed -n '2,25s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac

say "done"
if [ ${#FAILED[@]} -gt 0 ]; then
    printf 'Not finished: %s\n' "${FAILED[@]}" >&2
    exit 1
fi
