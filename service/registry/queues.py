"""Kinds of work, the queues that they wait in, and the memory that they take at most."""

from __future__ import annotations

#: The kind of work, by the prefix of the record's id.
WORK_KINDS = {
    "ds": "inspect",
    "mdl": "inspect",
    "cal": "inspect",
    "job": "calibrate",
    "bat": "predict",
    "shd": "predict_shard",
    "msg": "deliver",
}
#: The kind of work of a dry run, whose record is a job.
PLAN = "plan"
#: Where work that trains waits: for any worker, or for one with a GPU.
ANY_DEVICE = "calibrate.cpu"
GPU_ONLY = "calibrate.gpu"
#: Where each kind waits, unless its record asks for a GPU.
QUEUE_OF = {
    "inspect": "inspect",
    PLAN: "plan",
    "calibrate": ANY_DEVICE,
    "predict": "predict",
    "predict_shard": "predict",
    "deliver": "deliver",
}
#: The worker that takes from each queue, as "a worker …".
TAKERS = {
    "inspect": "that inspects uploads",
    "plan": "that plans jobs",
    ANY_DEVICE: "that trains",
    GPU_ONLY: "with a GPU",
    "predict": "that predicts batches",
    "deliver": "that delivers webhooks",
}
QUEUES = tuple(TAKERS)
#: Queues whose work loads PyTorch to open an upload.
OPENING = (QUEUE_OF["inspect"], QUEUE_OF[PLAN], ANY_DEVICE, GPU_ONLY)
#: Messages of webhooks wait for moments, and for other messages to the same host; all other work waits its turn.
DELIVERIES = "deliver"


def kind_of_record(record_id: str) -> str:
    """The kind of work that a record stands for; raises KeyError for an id of no such record.

    >>> kind_of_record("job_01"), kind_of_record("shd_01")
    ('calibrate', 'predict_shard')
    """
    return WORK_KINDS[record_id.partition("_")[0]]


def task_name(kind: str) -> str:
    """The Celery task whose messages are permits for work of this kind.

    >>> task_name("inspect")
    'fedlas.inspect'
    """
    return f"fedlas.{kind}"


#: ONNX Runtime's arenas and the rows of a batch, beside the libraries, whose size each worker knows by itself. Datasets
#: are mapped from their files.
_BASE_BYTES = 640 * 1024**2
#: The upload, the network with gradients and momentum, the finishers of a race that may still be averaged, and what a
#: checkpoint copies.
_COPIES_OF_MODEL = 24


def memory_of_job(model_bytes: int) -> int:
    """Bytes of memory that calibrating a model of this size may take beside the libraries.

    >>> memory_of_job(45_000_000) // 10**6
    1751
    """
    return _BASE_BYTES + _COPIES_OF_MODEL * model_bytes
