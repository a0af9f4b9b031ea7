"""Write the page of a run: python -m qwen3vl_rl.monitor RUN

RUN/monitor.html has warnings, curves, phases and the latest validation answers in one file. A run also writes it at
every validation and at its end.
"""

import argparse
from pathlib import Path

from qwen3vl_rl.errors import cli
from qwen3vl_rl.training.page import write_page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="trainer.default_local_dir of a run of either stage")
    print(write_page(parser.parse_args().run))


if __name__ == "__main__":
    cli(main)
