"""Time this project against microgpt.py, nanoGPT and nanochat with the same data, shape, batch, precision and steps.

    python scripts/benchmark_karpathy.py --baseline all --profile quick --install-deps
    python scripts/benchmark_karpathy.py --baseline nanogpt --nanogpt-dir path/to/nanoGPT --profile full --require-gpu
    python scripts/benchmark_karpathy.py --dry-run

Writes results/benchmark_karpathy_<UTC>.json, .md and _logs/; each figure has a list of the remaining differences.
The code is in scripts/karpathy/.
"""

import sys

from karpathy.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
