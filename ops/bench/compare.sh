#!/usr/bin/env bash
# Measures a GGUF file with Tramontane and with llama.cpp, alternately in one run, and prints the ratios as a table:
#
#   ops/bench/compare.sh MODEL.gguf [--threads T] [--rounds R] [--prefill N...] [--batch N...] [--decode N] [--repeat N] [--workers N]
#
# With --workers N also both over N workers, llama.cpp's RPC servers on its side, which share the threads.
#
# Absolute figures of a shared machine drift; ratios of one run say something. TRAMONTANE names the program (default:
# .build/release/tramontane), PEER_PYTHON a python that has llama-cpp-python (default: one is made in
# .build/bench-environment, which compiles llama.cpp for this processor: about 15 minutes on 2 cores). TRAMONTANE_ISA works
# as ever, and so does TRAMONTANE_WEIGHTS=resident. The lines of JSON that the table is made of go to the file that RESULTS names.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
tramontane=${TRAMONTANE:-$root/.build/release/tramontane}

usage() {
    echo "compare.sh: $1. For example: ops/bench/compare.sh model.gguf --threads 2" >&2
    exit 64
}

[ $# -ge 1 ] || usage "the GGUF file is missing"
model=$1
shift
[ -f "$model" ] || usage "$model is no file"
threads=$(nproc)
rounds=3
prefill=(256)
batch=(1 4 16)
workers=()
decode=16
repeat=3
values=()
# Takes the numbers up to the next option.
take() {
    values=()
    while [ $# -gt 0 ] && [[ $1 != --* ]]; do
        [[ $1 =~ ^[1-9][0-9]{0,8}$ ]] || usage "$1 is not a whole number above 0"
        values+=("$1")
        shift
    done
}
one() { [ ${#values[@]} -eq 1 ] || usage "$1 takes one number"; }
while [ $# -gt 0 ]; do
    option=$1
    shift
    take "$@"
    shift ${#values[@]}
    case $option in
        --threads) one "$option" && threads=${values[0]} ;;
        --rounds) one "$option" && rounds=${values[0]} ;;
        --decode) one "$option" && decode=${values[0]} ;;
        --workers) one "$option" && workers=(--workers "${values[0]}") ;;
        --repeat) one "$option" && repeat=${values[0]} ;;
        --prefill) [ ${#values[@]} -gt 0 ] || usage "$option has no value"; prefill=("${values[@]}") ;;
        --batch) [ ${#values[@]} -gt 0 ] || usage "$option has no value"; batch=("${values[@]}") ;;
        *) usage "unknown option $option" ;;
    esac
done
[ -x "$tramontane" ] || usage "$tramontane is not there; build it first, or name it in TRAMONTANE"

python=${PEER_PYTHON:-}
if [ -z "$python" ]; then
    environment=$root/.build/bench-environment
    python=$environment/bin/python
    if ! "$python" -c 'import llama_cpp' 2>/dev/null; then
        echo "compiling llama.cpp into $environment" >&2
        python3 -m venv --clear "$environment" >&2
        CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_RPC=ON" "$environment/bin/pip" install --quiet --disable-pip-version-check \
            --no-binary llama-cpp-python 'llama-cpp-python>=0.3.16,<0.4' >&2
    fi
fi
"$python" -c 'import llama_cpp' || usage "$python has no llama-cpp-python"

results=${RESULTS:-}
if [ -z "$results" ]; then
    results=$(mktemp)
    trap 'rm -f "$results"' EXIT
fi
: >"$results"
arguments=(--threads "$threads" --prefill "${prefill[@]}" --batch "${batch[@]}" --decode "$decode" --repeat "$repeat" "${workers[@]}")
for ((round = 1; round <= rounds; ++round)); do
    echo "round $round of $rounds" >&2
    "$tramontane" bench --model "$model" "${arguments[@]}" --json >>"$results"
    "$python" "$root/ops/bench/peer_llama.py" "$model" "${arguments[@]}" >>"$results"
done
python3 "$root/ops/bench/ratios.py" "$results"
