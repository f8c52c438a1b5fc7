#!/usr/bin/env bash
# Checks and measures the torch engine on a GPU in at most eight minutes; PyTorch is all that the machine must have.
#
#   bash scripts/gpu_check.sh --collect-wheels DIR      with a network: the other packages as wheels (20 MB; for Python
#                                                       3.12 on x86_64: --python 3.13, --machine aarch64 change that)
#   bash scripts/gpu_check.sh --wheels DIR              without a network: uses them where packages are missing
#   bash scripts/gpu_check.sh --nanogpt-dir DIR         beside nanoGPT, from a checkout
#   bash scripts/gpu_check.sh --device cpu --quick      the CPU in the GPU's place, in seconds
#   bash scripts/gpu_check.sh --options                 every option
#
# Parts, each with its own time limit: doctor (scripts/nvidia_doctor.sh); the compliance suite's tests of this device;
# many small models side by side; a profile of their steps; sampling; training beside nanoGPT. A part that fails or
# runs out of time does not stop the others. results/gpu_check_<UTC>/ has report.md and results.json, both written
# after every measurement, and log.txt. Nothing is installed or downloaded, except by --collect-wheels.
#
# Variables: PYTHON (default: python, else python3, on PATH).
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
  echo "error: there is no Python: $python cannot be run" >&2
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
    echo 'error: --wheels names no folder' >&2
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
