#!/usr/bin/env bash
# Checks and measures the PyTorch engine on a GPU in at most eight minutes. The machine only needs PyTorch.
#
#   bash scripts/gpu_check.sh --collect-wheels DIR      with a network: collects the other packages as wheels (20 MB,
#                                                       for Python 3.12 on x86_64, or --python, --machine)
#   bash scripts/gpu_check.sh --wheels DIR              without a network: uses these wheels for missing packages
#   bash scripts/gpu_check.sh --nanogpt-dir DIR         also measures nanoGPT, from a checkout
#   bash scripts/gpu_check.sh --device cpu --quick      uses the CPU instead of a GPU; takes seconds
#   bash scripts/gpu_check.sh --options                 lists every option
#
# The parts have separate time limits: doctor (scripts/nvidia_doctor.sh); the compliance suite on this device; many
# small models side by side; a profile of their steps; sampling; training, compared with nanoGPT. A part that fails or
# runs out of time does not stop the others. results/gpu_check_<UTC>/ contains report.md and results.json, which are
# written after every measurement, and log.txt. Nothing is installed or downloaded, except with --collect-wheels.
#
# Variables: PYTHON (default: python or python3 on PATH).
# Exit codes: 0 all parts completed; 1 a part failed; 2 an invalid option; 124 a part ran out of time, none failed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

case ${1:-} in -h | --help) usage && exit 0 ;; esac
python=${PYTHON:-}
if [ -z "$python" ]; then
  python=python
  command -v python >/dev/null 2>&1 || python=python3
fi
command -v "$python" >/dev/null 2>&1 || {
  echo "error: Python was not found: $python cannot be run" >&2
  exit 1
}
case ${1:-} in
  --collect-wheels)
    shift
    exec "$python" "$here/gpu_check/wheels.py" collect "$@" ;;
  --options) set -- --help ;;
esac

export PYTHONPATH="$root:$here:$root/tests${PYTHONPATH:+:$PYTHONPATH}"
wheels=''
if [ "${1:-}" = --wheels ]; then
  wheels=${2:-}
  [ -n "$wheels" ] || {
    echo 'error: --wheels needs a folder' >&2
    exit 2
  }
  shift 2
fi
if [ -z "$wheels" ]; then exec "$python" -m gpu_check "$@"; fi
site=$(mktemp -d) || exit 1
trap 'rm -rf "$site"' EXIT
trap '[ -z "${child:-}" ] || kill "$child"; exit 143' TERM
"$python" "$here/gpu_check/wheels.py" unpack "$wheels" "$site" || exit "$?"
export PYTHONPATH="$PYTHONPATH:$site"
"$python" -m gpu_check "$@" &
child=$!
wait "$child"
