"""What the scheduler process has to do with the objects: nothing, while their owner lives."""

from __future__ import annotations

from typing import Any

import dask_tasks as tasks
import numpy as np
from dask_inspection import look_inside
from dask_shop import Cluster, Shop, until
from dask_target import Target
from distributed import Client, wait
from distributed.diagnostics.plugin import SchedulerPlugin

MIB = 1 << 20


def test_memory_does_not_grow_with_the_arguments(own_cluster: Cluster, store_url: str) -> None:
    """A hundred tasks of 10 MiB each cost the scheduler less than 20 MiB."""
    shop = Shop(own_cluster.address, store_url)
    wait(shop.client.submit(tasks.total, np.ones(10 * MIB // 8)))
    before = shop.client.run_on_scheduler(look_inside)
    futures = [
        shop.client.submit(tasks.total, np.full(10 * MIB // 8, float(i))) for i in range(100)
    ]
    assert shop.client.gather(futures)[7] == 7 * 10 * MIB // 8
    after = shop.client.run_on_scheduler(look_inside)
    assert after["nbytes"] - before["nbytes"] < 20 * MIB
    assert after["stores"] == after["maps"] == 0
    assert after["modules"] == []
    del futures
    shop.expect_empty()
    shop.client.close()
    until(lambda: not shop.directory.exists())


def test_users_proxies_and_classes_stay_closed(own_cluster: Cluster, store_url: str) -> None:
    """A proxy whose class the scheduler could not import is not opened, nor its class looked for.

    A peer of this package resolves it there; when its key is gone, that breaks the streams of one
    worker after the other.
    """
    shop = Shop(own_cluster.address, store_url)
    proxy = shop.owner.store.proxy(Target())
    future = shop.client.submit(tasks.kind_of, proxy)
    assert future.result() == "Target"
    shop.owner.store.evict(proxy.__proxy_factory__.key)
    doomed = shop.client.submit(tasks.kind_of, proxy, pure=False)
    assert "not in the store" in str(doomed.exception())
    inside = shop.client.run_on_scheduler(look_inside)
    assert inside["stores"] == 0
    assert inside["modules"] == []
    assert len(shop.client.nthreads()) == 2
    assert shop.client.submit(tasks.total, np.ones(200_000)).result() == 200_000
    shop.client.close()


def test_a_missing_object_fails_its_task_and_nothing_else(shop: Shop) -> None:
    """Whatever has become of an object, the workers stay."""
    held = shop.client.submit(tasks.total, np.ones(100_000), key="held")
    wait(held)
    for stored in list(shop.owner.store.scan()):
        shop.owner.store.evict(stored.key)
    again = shop.client.submit(tasks.total, np.ones(100_000), 2.0)
    assert "not in the store" in str(again.exception())
    assert len(shop.client.nthreads()) == 2


class Listener(SchedulerPlugin):
    """Counts what is said under a topic."""

    name = "listener"

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.count = 0

    def log_event(self, topic: str, msg: Any) -> None:
        self.count += topic == self.topic


def heard(dask_scheduler: Any = None) -> int:
    count: int = dask_scheduler.plugins["listener"].count
    return count


def test_reports_are_few(shop: Shop) -> None:
    """A hundred tasks that are forgotten together are reported together."""
    shop.client.register_plugin(Listener(shop.owner.topic))
    futures = shop.client.map(tasks.total, [np.full(50_000, float(i)) for i in range(100)])
    wait(futures)
    shop.client.cancel(futures)
    del futures
    shop.expect_empty()
    assert 0 < shop.client.run_on_scheduler(heard) < 50
    shop.client.unregister_scheduler_plugin("listener")


def topics(dask_scheduler: Any = None) -> list[str]:
    return list(dask_scheduler.get_events())


def test_reports_are_not_kept(shared_cluster: Cluster, store_url: str) -> None:
    """A scheduler that serves for months does not collect what it has told its clients."""
    shop = Shop(shared_cluster.address, store_url, threshold="100 kB", results=True)
    for i in range(5):
        assert shop.client.submit(tasks.grow, np.full(50_000, float(i))).result()[0] == i + 1
        shop.expect_empty()
    topic = shop.owner.topic
    until(lambda: shop.client.get_events(topic) == ())
    shop.client.close()
    with Client(shared_cluster.address) as client:
        assert topic not in client.run_on_scheduler(topics)
