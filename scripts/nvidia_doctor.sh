#!/usr/bin/env bash
# Checks whether microgpt can train on the NVIDIA GPU of this machine. Prints a line for each check, then a verdict.
#
#   bash scripts/nvidia_doctor.sh                  a GPU is required
#   REQUIRE_GPU=0 bash scripts/nvidia_doctor.sh    prints the same verdict, but exits with code 0
#
# The verdict is OK only if a small training with PyTorch and one with microgpt have both run on the GPU. Nothing is
# installed or downloaded, and no files are left behind.
#
# Variables: REQUIRE_GPU=1|0 (default 1); PYTHON (default: python or python3 on PATH); DOCTOR_TIMEOUT (time limit of a
# check in seconds, default 180).
# Exit codes: 0 the GPU is usable, or REQUIRE_GPU=0; 1 the GPU is not usable; 2 an invalid variable or option.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
require=${REQUIRE_GPU:-1}
limit=${DOCTOR_TIMEOUT:-180}
reasons='' # why the GPU is not usable

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

mistake() {
  echo "error: $1" >&2
  exit 2
}

blame() { reasons="${reasons:+$reasons; }$1"; }

# Prints the line of a check: its name, its result, an explanation.
line() { printf '%-9s %-10s %s\n' "$1" "$2" "$3"; }

# The first and the last non-empty line of a file that `limited` wrote.
first_line() { sed -n '/[^[:space:]]/{p;q;}' "$1"; }

last_line() { sed -n '/[^[:space:]]/p' "$1" | tail -n 1; }

# Runs a command for at most $limit seconds (then exit code 124); its output goes to $work/stdout and $work/stderr.
# With a broken driver, a program may hang such that only SIGKILL ends it.
limited() {
  local end=$((SECONDS + limit)) status=''
  "$@" >"$work/stdout" 2>"$work/stderr" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    if [ "$SECONDS" -ge "$end" ]; then
      kill -9 "$child" 2>/dev/null
      status=124
      break
    fi
    sleep 0.05
  done
  wait "$child" 2>/dev/null
  status=${status:-$?}
  child=''
  return "$status"
}

# Describes how a command failed.
ending() {
  if [ "$1" = 124 ]; then echo "no end within $limit s"; else echo "exit code $1"; fi
}

# Sets driver to ok | missing | failed | empty, and driver_reason.
check_driver() {
  local status gpu
  driver_reason=''
  if ! command -v nvidia-smi >/dev/null 2>&1; then
    driver=missing driver_reason='no NVIDIA driver was found (nvidia-smi is not on PATH)'
    line driver MISSING 'nvidia-smi is not on PATH'
    return
  fi
  limited nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  status=$?
  if [ "$status" -ne 0 ]; then
    driver=failed driver_reason="nvidia-smi fails ($(ending "$status"))"
    cat "$work/stderr" >>"$work/stdout" # nvidia-smi prints errors on stdout
    line driver FAILED "nvidia-smi, $(ending "$status"): $(first_line "$work/stdout")"
  elif [ ! -s "$work/stdout" ] || grep -q 'No devices were found' "$work/stdout"; then
    driver=empty driver_reason='the NVIDIA driver lists no GPU'
    line driver 'NO GPU' 'nvidia-smi lists none'
  else
    driver=ok
    while IFS= read -r gpu; do line driver ok "$gpu"; done <"$work/stdout"
  fi
}

# Sets python to an absolute path; fails if there is none.
find_python() {
  local asked=${PYTHON:-}
  if [ -z "$asked" ]; then
    asked=python
    command -v python >/dev/null 2>&1 || asked=python3
  fi
  python=$(command -v "$asked" 2>/dev/null)
  if [ -z "$python" ]; then
    line python MISSING "$asked cannot be run"
    blame "Python was not found ($asked cannot be run)"
    return 1
  fi
  case $python in /*) ;; *) python=$PWD/$python ;; esac
}

fact() { sed -n "s/^$1=//p" "$work/facts" | head -n 1; }

# Runs gpu_probe.py; records the first obstacle to training on the GPU.
check_torch() {
  local status torch error
  limited "$python" "$here/gpu_probe.py"
  status=$?
  cp "$work/stdout" "$work/facts"
  if [ -z "$(fact python)" ]; then
    line python FAILED "$python, $(ending "$status"): $(last_line "$work/stderr")"
    blame "$python does not run the probe ($(ending "$status"))"
    return
  fi
  line python ok "$(fact python) ($python)"
  torch=$(fact torch) error=$(fact torch_error)
  if [ "$error" = 'not installed' ]; then
    line pytorch MISSING "$error"
    blame "PyTorch is not installed in $python"
  elif [ -n "$error" ]; then
    line pytorch BROKEN "$error"
    blame "PyTorch cannot be imported ($error)"
  elif [ -z "$torch" ]; then
    line pytorch FAILED "its import, $(ending "$status"): $(last_line "$work/stderr")"
    blame "the import of PyTorch does not come to an end ($(ending "$status"))"
  else
    check_build "$torch" "$(fact build)"
    check_probe "$status" "$(fact build)"
  fi
}

# Reports the probe's results about GPUs: $1 is its exit code, $2 the platform that PyTorch was built for.
check_probe() {
  local visible probe says device
  visible=$(fact visible) gpu=$(fact gpu) probe=$(fact probe) says=$(fact probe_says) device=$(fact probe_device)
  if [ "$visible" = 0 ]; then
    line visible NONE "PyTorch sees no GPU${CUDA_VISIBLE_DEVICES+ (CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES)}"
    [ ! -s "$work/stderr" ] || line '' '' "$(first_line "$work/stderr")" # PyTorch's warning
    [ -n "$reasons" ] || blame "PyTorch sees no GPU$(why_none "$2")"
    return
  fi
  [ -z "$visible" ] || line visible ok "$visible: $gpu"
  if [ -z "$probe" ]; then
    line probe FAILED "$(ending "$1"): $(last_line "$work/stderr")"
    blame "the probe did not come to an end ($(ending "$1"))"
  elif [ "$probe" = elsewhere ]; then
    line probe 'NOT GPU' "it ran on $device: $says"
    blame "the probe ran on $device instead of the GPU"
  elif [ "$probe" != ok ] || [ "$1" -ne 0 ] || [ -z "$visible" ] || [[ $device != cuda* ]]; then
    line probe FAILED "$says ($(ending "$1"))"
    blame "the probe failed ($says)"
  else
    line probe ok "on $device: $says"
  fi
}

# Reports the platform that PyTorch was built for: $1 is its version, $2 its build.
check_build() {
  case $2 in
    cuda*)
      line pytorch ok "$1, $2"
      return ;;
    rocm*) blame "this PyTorch ($1) is built for AMD GPUs, not for CUDA" ;;
    *) blame "this PyTorch ($1) is built without CUDA" ;;
  esac
  line pytorch 'NO CUDA' "$1, built for ${2:-something unknown}"
}

# If the driver lists a GPU, prints why PyTorch may not see it: $1 is the build of PyTorch.
why_none() {
  [ "$driver" = ok ] || return
  echo ", although nvidia-smi does: perhaps the driver is too old for $1, or CUDA_VISIBLE_DEVICES hides the GPU"
}

# Runs microgpt, from this checkout if there is one; its output and its record must both have using_gpu=true.
check_microgpt() {
  local status record
  mkdir "$work/run" && cd "$work/run" || exit 1
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  limited "$python" -m microgpt mode=tensor backend=torch backend.device=cuda experiment=debug \
    outputs_dir=outputs results_dir=results
  status=$?
  record=$(find . -name run.json 2>/dev/null | head -n 1)
  if [ "$status" -ne 0 ]; then
    line microgpt FAILED "$(ending "$status"): $(last_line "$work/stderr")"
    [ -n "$reasons" ] || blame "microgpt's own run failed ($(ending "$status"))"
  elif ! grep -q 'using_gpu=true' "$work/stdout" || [ -z "$record" ] || ! grep -q '"using_gpu": true' "$record"; then
    line microgpt 'NOT GPU' 'its run does not report using_gpu=true'
    blame "microgpt's own run did not use the GPU"
  else
    line microgpt ok 'a run reports using_gpu=true'
  fi
}

verdict() {
  if [ -z "$reasons" ]; then
    [ -z "$driver_reason" ] || echo "warning: $driver_reason, but the GPU works"
    echo "verdict: OK: PyTorch and microgpt trained on $gpu"
    return 0
  fi
  [ -z "$driver_reason" ] || reasons="$driver_reason; $reasons"
  if [ "$require" = 0 ]; then
    echo "verdict: NOT USABLE (for information only): $reasons"
    return 0
  fi
  echo "verdict: NOT USABLE: $reasons"
  return 1
}

case ${1:-} in
  '') ;;
  -h | --help) usage && exit 0 ;;
  *) mistake "$1 is not an option: the only option is --help; REQUIRE_GPU, PYTHON and DOCTOR_TIMEOUT are variables" ;;
esac
case $require in 0 | 1) ;; *) mistake "REQUIRE_GPU=$require is not allowed: it must be 1 or 0" ;; esac
case $limit in '' | *[!0-9]*) mistake "DOCTOR_TIMEOUT=$limit is not allowed: it must be a whole number of seconds" ;; esac

child=''
work=$(mktemp -d) || exit 1
trap 'cd "$here"; [ -z "$child" ] || kill -9 "$child" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
check_driver
if find_python; then
  check_torch
  check_microgpt
fi
verdict
