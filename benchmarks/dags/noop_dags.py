"""The comparator: DAG runs shaped like archive jobs (one per partition key, in a pool), whose task does nothing."""

from airflow.sdk import DAG, Asset, BaseOperator, PartitionedAssetTimetable, task

from archsync.airflow_glue.dags import build_dags

globals().update(build_dags())

NOOP_JOBS = Asset("benchmark_noop_jobs")


class NoopOperator(BaseOperator):
    """Does nothing with its job."""

    template_fields = ("job_id",)

    def __init__(self, *, job_id: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id

    def execute(self, context: object) -> None:
        """Nothing."""


with DAG("benchmark_noop_dispatch", schedule=None, is_paused_upon_creation=False, params={"jobs": 1}):

    @task(outlets=[NOOP_JOBS])
    def dispatch(params=None, outlet_events=None) -> None:
        """Start as many no-op jobs as asked for."""
        outlet_events[NOOP_JOBS].add_partitions([str(number) for number in range(params["jobs"])])

    dispatch()

with DAG(
    "benchmark_noop",
    schedule=PartitionedAssetTimetable(assets=NOOP_JOBS),
    is_paused_upon_creation=False,
    max_active_runs=10_000,
    max_active_tasks=10_000,
    catchup=False,
):
    NoopOperator(
        task_id="noop",
        job_id="{{ dag_run.partition_key }}",
        pool="benchmark",
        retries=100,
        do_xcom_push=False,
    )
