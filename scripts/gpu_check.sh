#!/usr/bin/env bash
# Checks and times the kernels on a machine with a GPU: scripts/gpu_check.sh [WHEEL]
#
# Uses the python on the path (or $PYTHON), which needs a CUDA torch >= 2.10, triton and pytest. A WHEEL built elsewhere, or
# else the only one in dist/, is unpacked beside this tree; without one the extension is built in place. Nothing is installed.
# Exit status: 0 all well, 1 a check failed, 3 no CUDA device (nothing was run).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}

status=0
"$python" - <<'END' || status=$?
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"gpu_check: torch cannot be imported: {error}")
if not torch.cuda.is_available():
    built = torch.version.cuda or "none"
    print(f"gpu_check: no CUDA device (torch {torch.__version__}, its CUDA: {built}). Nothing was run.", file=sys.stderr)
    sys.exit(3)
END
if [ "$status" -ne 0 ]; then exit "$status"; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheels=(dist/*.whl)
wheel=${1:-}
if [ -z "$wheel" ] && [ "${#wheels[@]}" -eq 1 ] && [ -f "${wheels[0]}" ]; then wheel=${wheels[0]}; fi
if [ -n "$wheel" ]; then
    echo "kernels of $wheel"
    "$python" -m zipfile -e "$wheel" "$work"
    # The tests and timings of this tree run on the package of the wheel.
    cp -r tests benchmarks pyproject.toml setup.py csrc "$work/"
    cd "$work"
else
    echo "building the extension in place"
    "$python" setup.py build_ext --inplace >"$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
fi
export PYTHONPATH=$PWD
"$python" -c 'from foreblocks.darts import kernels; print(kernels.__file__); print(kernels.report())'
status=0
"$python" -m pytest -p no:cacheprovider -q -m cuda tests/kernels/test_on_cuda.py || status=1
"$python" benchmarks/kernels/gpu_times.py || status=1
exit "$status"
