"""Does it help? The comparison of losses that docs/does-it-help.md reports; README.md beside this file says how.

What it shares with the examples (data sets, splits, the names of metrics), the benchmark (the machine) and the
documentation (the style of figures) is imported from there. Those are folders of scripts, so they go on the path.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / folder) for folder in ("examples", "benchmarks", "docs/figures")]
