"""Make and publish the bundled candidates; see ``README.md`` beside this file."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.zoo.catalog import NETWORKS
from benchmarks.zoo.publish import publish
from benchmarks.zoo.table import write_table

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train, export, quantize, evaluate, write the table, publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=main.__doc__)
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--build-only", action="store_true", help="do not publish")
    steps.add_argument("--publish-only", action="store_true", help="publish the files under --built as they are")
    parser.add_argument("--network", action="append", choices=[network.name for network in NETWORKS], metavar="NAME",
                        help="only this network, may be given again; results of the others are kept")  # fmt: skip
    parser.add_argument("--reuse-weights", action="store_true", help="train only networks without weights in --work")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "build" / "zoo", help="weights and float files")
    parser.add_argument("--built", type=Path, default=HERE / "built", help="model files, manifests, evaluation pack")
    parser.add_argument("--registry", type=Path, default=HERE / "registry", help="the registry to write")
    parser.add_argument("--keys", type=Path, default=HERE / "demo-keys", help="signing keys")
    options = parser.parse_args()
    started = time.monotonic()
    if not options.publish_only:
        from benchmarks.zoo.build import RESULTS_NAME, build_all  # torch and the converters

        chosen = [network for network in NETWORKS if not options.network or network.name in options.network]
        build_all(chosen, options.work, options.built, reuse=options.reuse_weights)
        write_table(HERE / "README.md", options.built / RESULTS_NAME)
        print(f"built in {time.monotonic() - started:.0f} s")
    if not options.build_only:
        count = publish(options.built, options.registry, options.keys)
        print(f"{count} candidates published to {options.registry} ({time.monotonic() - started:.0f} s in all)")


if __name__ == "__main__":
    main()
