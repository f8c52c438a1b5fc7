#!/usr/bin/env bash
# For a rented GPU, as in Colab: installs missing packages, runs nvidia_doctor.sh, compares with Karpathy's programs.
#
#   bash scripts/colab_gpu_benchmark.sh
#   BASELINE=both PROFILE=full bash scripts/colab_gpu_benchmark.sh
#   NANOGPT_REF=master NANOCHAT_REF=master BASELINE=both bash scripts/colab_gpu_benchmark.sh
#   DRY_RUN=1 bash scripts/colab_gpu_benchmark.sh         prints the commands; installs and downloads nothing
#
# The tables are written to results/ in the current folder. An installed PyTorch is kept, because it fits the driver.
#
# Variables; each sets the option of the same name (scripts/benchmark_karpathy.py --help):
#   BASELINE=microgpt|nanogpt|nanochat|both|all (default nanogpt), PROFILE=quick|full|auto (default auto)
#   NANOGPT_REF, NANOCHAT_REF, NANOGPT_DIR, NANOCHAT_DIR, MICROGPT_FILE, STEPS, REPEATS, TIMEOUT, SEED
#   REQUIRE_GPU=1|0 (default 1)    1: without a usable GPU, nothing is compared
#   INSTALL=1|0 (default 1)        0: neither microgpt nor the packages of the baselines are installed
#   PYTHON (default: python or python3 on PATH), DRY_RUN=0|1 (default 0)
# Exit codes: 0 compared; 1 no usable GPU, or a failed installation; 2 an invalid variable or option; otherwise that of
#   the benchmark.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
baseline=${BASELINE:-nanogpt}
profile=${PROFILE:-auto}
require=${REQUIRE_GPU:-1}
install=${INSTALL:-1}
dry=${DRY_RUN:-0}

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

mistake() {
  echo "error: $1" >&2
  exit 2
}

fail() {
  echo "error: $1" >&2
  exit 1
}

# Prints a command as it would be typed, and runs it unless this is a dry run.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [ "$dry" = 1 ] || "$@"
}

find_python() {
  python=${PYTHON:-}
  if [ -z "$python" ]; then
    python=python
    command -v python >/dev/null 2>&1 || python=python3
  fi
  command -v "$python" >/dev/null 2>&1 || fail "Python was not found: $python cannot be run"
}

# Returns whether a package is installed; a package in the current folder does not count.
installed() { "$python" -c "import importlib.metadata as m; m.version('$1')" >/dev/null 2>&1; }

install_microgpt() {
  local what=$root
  installed microgpt-lab && return
  installed torch || what="${root}[torch]"
  run "$python" -m pip install --quiet --editable "$what" || fail "microgpt could not be installed"
}

case ${1:-} in
  '') ;;
  -h | --help) usage && exit 0 ;;
  --dry-run) dry=1 ;;
  *) mistake "$1 is not an option: the options are --help and --dry-run; all else is set with variables" ;;
esac
case $baseline in
  microgpt | nanogpt | nanochat | both | all) ;;
  *) mistake "BASELINE=$baseline is not allowed: choose one of microgpt, nanogpt, nanochat, both, all" ;;
esac
case $profile in quick | full | auto) ;; *) mistake "PROFILE=$profile is not allowed: choose one of quick, full, auto" ;; esac
case $require in 0 | 1) ;; *) mistake "REQUIRE_GPU=$require is not allowed: it must be 1 or 0" ;; esac
case $install in 0 | 1) ;; *) mistake "INSTALL=$install is not allowed: it must be 1 or 0" ;; esac
case $dry in 0 | 1) ;; *) mistake "DRY_RUN=$dry is not allowed: it must be 0 or 1" ;; esac
find_python

[ "$install" = 0 ] || install_microgpt
run env REQUIRE_GPU="$require" PYTHON="$python" bash "$here/nvidia_doctor.sh" ||
  fail 'without a usable GPU, nothing is compared (REQUIRE_GPU=0 compares on the CPU)'

set -- "$python" "$here/benchmark_karpathy.py" --baseline "$baseline" --profile "$profile"
if [ "$require" = 1 ]; then set -- "$@" --require-gpu; else set -- "$@" --no-require-gpu; fi
[ "$install" = 0 ] || set -- "$@" --install-deps
for name in NANOGPT_REF NANOCHAT_REF NANOGPT_DIR NANOCHAT_DIR MICROGPT_FILE STEPS REPEATS TIMEOUT SEED; do
  value=${!name:-}
  [ -z "$value" ] || set -- "$@" "--$(printf '%s' "$name" | tr 'A-Z_' 'a-z-')" "$value"
done
run "$@" || exit "$?"
[ "$dry" = 1 ] || exit 0

# Printing the benchmark's own plan requires microgpt.
if installed microgpt-lab; then
  dry=0
  run "$@" --dry-run
else
  echo 'install microgpt to see the plan of the benchmark itself'
fi
