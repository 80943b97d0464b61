"""A cluster of real processes, apart from the test's: scheduler, two nannies, their workers.

    python dask_cluster.py N_WORKERS

Prints the scheduler's address, and lives until its standard input ends.
"""

from __future__ import annotations

import sys

from distributed import LocalCluster


def main() -> None:
    n_workers = int(sys.argv[1])
    with LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs=50,
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
