"""Celery's tasks that publish. The worker gives itself as many as the environment says."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_ready

# Sets Django up, in prefork's parent: after Celery has patched what it patches.
from tests.publishing.site import work

app = Celery("tasks")
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": os.environ["TASKS_FOLDER"],
        "data_folder_out": os.environ["TASKS_FOLDER"],
        "control_folder": os.environ["TASKS_FOLDER"],
        "polling_interval": 0.05,
    },
    task_ignore_result=True,
)


@app.task  # type: ignore[untyped-decorator]
def publish_one(number: int) -> None:
    work(number)


@worker_ready.connect  # type: ignore[untyped-decorator]
def begin(**kwargs: Any) -> None:
    for number in range(int(os.environ["TASKS"])):
        publish_one.delay(number)
