#!/usr/bin/env bash
# What only a GPU can show, in two calls of at most 7 minutes each, without a network.
#
#   benchmarks/gpu.sh pack FOLDER        # here, with a network: what such a machine may lack, as wheels
#   benchmarks/gpu.sh prove              # every chapter's smoke run; CUDA against the CPU, a graph
#                                        # against the plain loop, float16 against float32, resume
#   benchmarks/gpu.sh measure            # the floor; DCGAN 64×64 beside pytorch/examples; chapters
#                                        # 05 and 08 with the gpu profile to the end, their pictures
#   benchmarks/gpu.sh more               # hours: memory, switches, costs, every peer, the league
#   benchmarks/gpu.sh chapters 05_dcgan  # built with the gpu profile (needs Jupyter; see the build)
#
# Each part has a time limit of its own, times SLOWER (default 1), and what it has by then is kept.
# python3 must have torch, torchvision, accelerate, safetensors, scikit-learn, matplotlib, tqdm,
# typer and psutil; IPython, ipywidgets and pooch too, or WHEELS, which `pack` makes.
#
#   OUT=FOLDER     results as one results.tar.gz there (default: they stay in benchmarks/results)
#   WHEELS=FOLDER  wheels that are unpacked for this call, nothing is installed
#   DATA=FOLDER    the data sets, as GENCOURSE_DATA, or a .tar.gz of what is in that folder; without
#                  it chapters 05 and 08 are left out
#   PEERS=FOLDER   checkouts of the peers, one subfolder each (default: nothing beside anybody)
#   PICTURES=FOLDER  pictures in colour for the peers (default: $DATA/cifar10-folder/train)
#   RUNS=FOLDER    where `more` and `chapters` find and leave trainings (default: runs/gpu-build)
#   PYTHON=python3, JOBS=6 (chapters side by side), CHAPTERS="05 08" (prove these alone)
#   PRETEND=T4     to try this script without a GPU, at a tiny size
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
SLOWER=${SLOWER:-1}
RUNS=${RUNS:-runs/gpu-build}
RESULTS=benchmarks/results
PROFILE=gpu KIND=cuda
[ -n "${PRETEND:-}" ] && PROFILE=smoke KIND=pretended
PREFIX=${PRETEND:+tests/pretend_cuda.py $PRETEND}
export PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
unset GENCOURSE_DEVICE
FAILED=()

if [ "${1:-}" = pack ]; then
    exec "$PYTHON" -m pip download -q --only-binary=:all: --python-version "${PY:-3.12}" \
        --platform manylinux2014_x86_64 --platform any -d "${2:?name a folder}" \
        ipython ipywidgets pooch psutil
fi
if [ -n "${WHEELS:-}" ]; then # a wheel is a zip: unpacked it can be imported
    SITE=$(mktemp -d)
    for wheel in "$WHEELS"/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$SITE" || exit 1; done
    export PYTHONPATH="$PYTHONPATH:$SITE"
fi
mkdir -p "$RESULTS" "$RUNS" runs/data
if [ -f "${DATA:-}" ]; then
    tar -xzf "$DATA" -C runs/data || exit 1
    DATA=$PWD/runs/data
fi
[ -n "${DATA:-}" ] && GENCOURSE_DATA=$(cd "$DATA" && pwd) && export GENCOURSE_DATA

keep() { # one archive, because few files may come back from such a machine
    [ -n "${OUT:-}" ] || return 0
    mkdir -p "$OUT"
    tar -czf "$OUT/.results" "$RESULTS" 2>/dev/null
    mv "$OUT/.results" "$OUT/results.tar.gz"
}

part() { # part SECONDS NAME SCRIPT…: for so long at most; failures are told at the end
    local most=$(($1 * SLOWER)) name=$2 prefix=$PREFIX
    shift 2
    [ "$1" = benchmarks/gpu_chapters.py ] && prefix='' # its processes pretend, each by itself
    printf '\n== %s: at most %d s, begun at %d s\n' "$name" "$most" "$SECONDS"
    # shellcheck disable=SC2086  # words
    if ! timeout --kill-after=5 "$most" "$PYTHON" $prefix "$@"; then FAILED+=("$name"); fi
    keep
}

loads() { # whether these pictures lie here; without a folder named it would be the network's turn
    [ -n "${GENCOURSE_DATA:-}" ] &&
        "$PYTHON" -c "from gencourse import data; data.load('$1')" 2>/dev/null
}

prove() { # 150 + 60 + 60 + 60 + 60 s
    local known=digits which
    loads fashion_mnist && known=fashion_mnist
    # shellcheck disable=SC2086
    part 150 "chapters, smoke" benchmarks/gpu_chapters.py ${CHAPTERS:-} \
        --jobs "${JOBS:-6}" --seconds $((140 * SLOWER)) --prefix "$PREFIX"
    for which in agree graph half resume; do
        part 60 "gpu_check $which" benchmarks/gpu_check.py --data "$known" ${PRETEND:+--tiny} \
            --only $which
        mv "$RESULTS/gpu_check-$KIND.json" "$RESULTS/gpu_check-$which-$KIND.json" 2>/dev/null
    done
    keep
}

measure() { # 70 + 110 + 220 s
    part 70 floor benchmarks/floor.py --blocks 5 ${PRETEND:+--tiny}
    if [ -z "${PRETEND:-}" ]; then
        peers 110 beside_peers.py --only dcgan64-colour --rounds 3
    fi
    if loads fashion_mnist || [ -n "${PRETEND:-}" ]; then
        GENCOURSE_RUNS="$PWD/$RESULTS/runs" part 225 "chapters 05 and 08" \
            benchmarks/gpu_chapters.py 05 08 --jobs 2 --pictures --prefix "$PREFIX" \
            --profile "$PROFILE" --seconds $((215 * SLOWER))
        find "$RESULTS/runs" -name '*.pt' -delete # checkpoints are large
        keep
    else
        FAILED+=("chapters 05 and 08 (no Fashion-MNIST: set DATA)")
    fi
}

peers() { # peers SECONDS SCRIPT OPTIONS…: with every checkout in PEERS
    local most=$1 script=$2 options=() folder
    shift 2
    for folder in ${PEERS:+"$PEERS"/*/}; do options+=(--peer "$folder"); done
    if [ ${#options[@]} -eq 0 ]; then
        FAILED+=("$script (no checkouts: set PEERS)")
    else
        part "$most" "$script" "benchmarks/$script" "${options[@]}" \
            ${PICTURES:+--pictures "$PICTURES"} "$@"
    fi
}

more() {
    local known=noise
    loads fashion_mnist && known=fashion_mnist
    loads mnist && part 600 "gpu_check memory" benchmarks/gpu_check.py --only memory
    part 600 switches benchmarks/switches.py --data "$known" --rounds 8
    part 600 costs benchmarks/costs.py --data "$known" --only run checkpoint scale
    peers 900 beside_peers.py
    peers 3600 quality.py --marks 20 60 --seeds 0 --out runs/quality
    if [ "$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
        part 600 processes benchmarks/processes.py --data "$known" --precision float32
    fi
    part 60 larger_runs benchmarks/larger_runs.py
    GENCOURSE_RUNS="$RUNS" part 3600 league benchmarks/league.py
}

chapters() {
    [ $# -gt 0 ] || set -- 04 05 06 07 08 09 10 14
    for stem in "$@"; do
        part 1200 "chapter $stem" tools/build.py one "$stem" --profile gpu --runs "$RUNS"
    done
}

if ! "$PYTHON" -c "import torch" 2>/dev/null; then
    echo "$PYTHON has no torch: name one that has with PYTHON=…; nothing is installed here." >&2
    exit 1
fi
if [ -z "${PRETEND:-}" ] && ! "$PYTHON" -c "import torch; assert torch.cuda.is_available()"; then
    echo "torch sees no CUDA device here (PRETEND=T4 tries the script without one)." >&2
    exit 1
fi
missing=$("$PYTHON" - <<'END'
import importlib.util
names = """torchvision accelerate safetensors sklearn matplotlib tqdm typer psutil IPython ipywidgets
pooch""".split()
print(*[name for name in names if importlib.util.find_spec(name) is None])
END
)
[ -z "$missing" ] || echo "Missing here: $missing. See \`pack\` and WHEELS at the top of this script." >&2

case "${1:-}" in
    prove | measure | more) "$1" ;;
    chapters)
        shift
        chapters "$@"
        ;;
    *)
        sed -n '2,28s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac

printf '\n== done after %d s\n' "$SECONDS"
if [ ${#FAILED[@]} -gt 0 ]; then
    printf 'Not finished, or not right: %s\n' "${FAILED[@]}" >&2
    exit 1
fi
