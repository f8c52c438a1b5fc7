#!/usr/bin/env bash
# Profiles a short training with microgpt's PyTorch engine: which operators and GPU kernels take the time of a step.
#
#   bash scripts/profile_gpu.sh                                  writes to results/profile_<UTC>/
#   bash scripts/profile_gpu.sh mine --n-embd 64 --compile       writes to mine/; --help lists the training options
#   PROFILER=nsys bash scripts/profile_gpu.sh                    uses NVIDIA Nsight Systems (requires nsys)
#   REQUIRE_GPU=0 bash scripts/profile_gpu.sh                    profiles the CPU if there is no GPU
#   DRY_RUN=1 bash scripts/profile_gpu.sh                        prints the command
#
# Writes profile.json (device, times, the operators that take longest), operators.txt and trace.json, or nsys.nsys-rep.
# If nvidia-smi is available, gpu.csv has the utilization and memory of the GPU every 0.2 s. Downloads nothing.
#
# Variables: REQUIRE_GPU=1|0 (default 1), PROFILER=torch|nsys (default torch), PYTHON (default: python or python3 on
# PATH), DRY_RUN=0|1.
# Exit codes: 0 profiled; 1 there is no GPU and REQUIRE_GPU=1, or the training failed; 2 an invalid variable or option.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
require=${REQUIRE_GPU:-1}
profiler=${PROFILER:-torch}
dry=${DRY_RUN:-0}

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

mistake() {
  echo "error: $1" >&2
  exit 2
}

# Prints a command as it would be typed.
show() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
}

find_python() {
  python=${PYTHON:-}
  if [ -z "$python" ]; then
    python=python
    command -v python >/dev/null 2>&1 || python=python3
  fi
  command -v "$python" >/dev/null 2>&1 || {
    echo "error: Python was not found: $python cannot be run" >&2
    exit 1
  }
}

# Records samples of nvidia-smi while the training runs; `stop_watching` ends the process.
watch_gpu() {
  watching=''
  command -v nvidia-smi >/dev/null 2>&1 || return 0
  nvidia-smi --query-gpu=timestamp,index,utilization.gpu,utilization.memory,memory.used,power.draw --format=csv -lms 200 \
    >"$work/gpu.csv" 2>/dev/null &
  watching=$!
}

stop_watching() {
  [ -n "$watching" ] || return 0
  kill "$watching" 2>/dev/null
  wait "$watching" 2>/dev/null
  watching=''
}

case $require in 0 | 1) ;; *) mistake "REQUIRE_GPU=$require is not allowed: it must be 1 or 0" ;; esac
case $dry in 0 | 1) ;; *) mistake "DRY_RUN=$dry is not allowed: it must be 0 or 1" ;; esac
case $profiler in torch | nsys) ;; *) mistake "PROFILER=$profiler is not allowed: it must be torch or nsys" ;; esac
out=results/profile_$(date -u +%Y%m%dT%H%M%SZ)
case ${1:-} in
  -h | --help)
    usage
    find_python
    exec "$python" "$here/profile_training.py" --help ;;
  '' | -*) ;;
  *)
    out=$1
    shift ;;
esac
find_python
flag=--require-gpu
[ "$require" = 1 ] || flag=--no-require-gpu
set -- "$python" "$here/profile_training.py" --out "$out" "$flag" "$@"
if [ "$profiler" = nsys ]; then
  if [ "$dry" = 0 ] && ! command -v nsys >/dev/null 2>&1; then
    echo 'error: PROFILER=nsys needs NVIDIA Nsight Systems: nsys is not on PATH' >&2
    exit 1
  fi
  set -- nsys profile --output "$out/nsys" --trace cuda,nvtx,osrt --force-overwrite true "$@" --profiler none
fi
if [ "$dry" = 1 ]; then
  show "$@"
  exit 0
fi

work=$(mktemp -d) || exit 1
watching=''
trap 'stop_watching; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
[ "$profiler" = torch ] || mkdir -p "$out"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
watch_gpu
"$@"
status=$?
stop_watching
if [ "$status" -ne 0 ]; then
  rmdir "$out" 2>/dev/null # only if it is empty
  echo "error: not profiled (exit code $status)" >&2
  [ "$status" -eq 2 ] || status=1
  exit "$status"
fi
if [ -s "$work/gpu.csv" ]; then mv "$work/gpu.csv" "$out/"; fi
echo "files: $out"
